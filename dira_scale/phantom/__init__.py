"""Images of nobody: drawn bodies, as files like a hospital's archive. Radiographs in ``cxr``, CT in ``ct``."""
