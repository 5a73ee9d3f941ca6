"""The fixtures of tests/archive."""

from archive.conftest import one_worker_is_this_process, own_hash_key, png_folder, sandbox

__all__ = ["one_worker_is_this_process", "own_hash_key", "png_folder", "sandbox"]
