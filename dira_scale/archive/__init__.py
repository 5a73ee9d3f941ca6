"""From an archive to shards: sources, decoding, de-identification, writing."""
