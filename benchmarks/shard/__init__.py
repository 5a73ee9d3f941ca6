"""bench shard: speed compared with decoder and encoder."""
