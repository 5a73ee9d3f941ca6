"""The part of an image or a volume that a view shows, and its mirroring."""
