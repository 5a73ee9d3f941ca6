"""``shard balance``: how often each image is drawn, so that rare kinds of images come more often."""
