"""Files that are masks by their names: among the images they would be stored as images."""

import re
from collections.abc import Iterator

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.errors import print_line
from dira_scale.storage.text import brief

NAME = re.compile(r"(.*[_\W])?(masks?|segs?|segmentations?|labelst[rs])", re.IGNORECASE)


def is_mask(name: str) -> bool:
    """Whether a folder in a record's name, or the file without its ending, ends as those of masks do."""
    *folders, file = name.split("/")
    return any(NAME.fullmatch(part) for part in (*folders, file.partition(".")[0]))


def with_note(records: Iterator[SourceRecord]) -> Iterator[SourceRecord]:
    """``records``; at their end says how many of them are masks by their names."""
    count, first = 0, ""
    for record in records:
        if record.rejected is None and is_mask(record.name):
            count, first = count + 1, first or record.name
        yield record
    if count:
        print_line(
            f"warning: {count} of the inputs are masks by their names, {brief(first)} for example, and are taken for "
            "images: keep them out of recipe.images, or name them in a table (recipe.labels, recipe.columns.mask)"
        )
