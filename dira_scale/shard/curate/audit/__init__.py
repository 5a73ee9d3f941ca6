"""``shard audit``: identifying values from the source in the dataset; patients and images in two splits."""
