"""The data's made-up radiographs."""

from data.conftest import radiograph

__all__ = ["radiograph"]
