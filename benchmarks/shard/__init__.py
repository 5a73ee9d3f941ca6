"""bench shard: memory for many records, speed beside decoder and encoder."""
