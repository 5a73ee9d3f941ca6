"""From an archive to shards: sources, recipes, de-identification, reading and writing of samples."""
