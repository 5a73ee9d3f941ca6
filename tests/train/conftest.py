"""The datasets of the data room's tests."""

from dataset.conftest import make_dataset, radiograph

__all__ = ["make_dataset", "radiograph"]
