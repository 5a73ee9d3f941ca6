"""The fixtures of tests/ingest."""

from archive.conftest import ingest, own_hash_key, png_folder, sandbox

__all__ = ["ingest", "own_hash_key", "png_folder", "sandbox"]
