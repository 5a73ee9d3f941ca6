"""The fixtures of tests/archive."""

from archive.conftest import own_hash_key, png_folder, sandbox

__all__ = ["own_hash_key", "png_folder", "sandbox"]
