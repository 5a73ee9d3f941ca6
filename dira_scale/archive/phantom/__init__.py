"""Synthetic patients as files like a hospital's archive: radiographs in ``cxr``, CT in ``ct``."""
