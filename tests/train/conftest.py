"""The datasets of the tests of `dataset`."""

from dataset.conftest import images, make_dataset, radiograph, tf32

__all__ = ["images", "make_dataset", "radiograph", "tf32"]
