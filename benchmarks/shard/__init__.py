"""bench shard: memory for many records, speed compared with decoder and encoder."""
