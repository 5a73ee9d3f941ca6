"""Which part of an image or a volume a view shows, and how it is mirrored."""
