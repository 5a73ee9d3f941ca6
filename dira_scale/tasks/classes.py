"""What ``task.classes`` names: values of masks that exclude each other, or regions of several, which may overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

Classes = Mapping[str, Any]  # of each class its value in masks, or of each region, which others may overlap, a list


def regions_of(classes: Classes) -> list[Sequence[int]] | None:
    """Return the values of each region; None: classes, which exclude each other."""
    values = [*classes.values()]
    return values if values and all(isinstance(each, list | tuple) for each in values) else None


def values_of(classes: Classes) -> list[int]:
    """Return all values in masks that ``classes`` name, each once."""
    if (regions := regions_of(classes)) is None:
        return [*classes.values()]
    values = [value for region in regions for value in region]  # as typed: a list in a list is no key of a dictionary
    return [value for number, value in enumerate(values) if value not in values[:number]]
