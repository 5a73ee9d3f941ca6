"""The data's made-up radiographs."""

from dataset.conftest import radiograph

__all__ = ["radiograph"]
