"""A sharded dataset: manifest, stored pixels, metrics."""
