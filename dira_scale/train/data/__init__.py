"""From shards to batches: manifest, order, views, distortions, loaders. Knows nothing of methods or training."""
