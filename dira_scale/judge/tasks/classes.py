"""The classes of a task: values of masks that exclude each other, or regions of several, which may overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

from dira_scale.base.config.keys import typed
from dira_scale.base.errors import UserError

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


def check_classes(given: Classes | None) -> None:
    """Raise UserError for classes and regions mixed, for two classes of one value, or one of the background's."""
    classes = given or {}
    values = values_of(classes)
    whole = all(type(value) is int and 0 < value < 256 for value in values)
    if not whole or len({*values}) < len(values) or not all(regions_of(classes) or ()):
        raise UserError(
            f"classes={typed(given)}: give each class a value of its own from 1 to 255, 0 being background; or each a "
            "list of values, as of regions that may overlap"
        )
