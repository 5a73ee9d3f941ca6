"""The fixtures of tests/ingest."""

from archive.conftest import ingest, one_worker_is_this_process, own_hash_key, png_folder, sandbox

__all__ = ["ingest", "one_worker_is_this_process", "own_hash_key", "png_folder", "sandbox"]
