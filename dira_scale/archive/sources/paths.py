"""What the path of a file below ``recipe.images`` says: that it is a mask, and whose it is."""

import re
from collections.abc import Iterator

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.errors import UserError, print_line
from dira_scale.storage.text import brief

MASK = re.compile(r"(.*[_\W])?(masks?|segs?|segmentations?|labelst[rs])", re.IGNORECASE)
KEY, GROUP = "recipe.patient_pattern", "patient"
UNMATCHED = f"{KEY} does not match its path"


def is_mask(name: str) -> bool:
    """Whether a folder in a record's name, or the file without its ending, ends as those of masks do."""
    *folders, file = name.split("/")
    return any(MASK.fullmatch(part) for part in (*folders, file.partition(".")[0]))


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


class PatientPattern:
    """A regular expression whose one group, or group ``patient``, is the patient. Raises UserError if it has none."""

    def __init__(self, text: str):
        try:
            self._pattern = re.compile(text)
        except (re.error, TypeError) as error:
            raise UserError(f"{KEY}={text}: not a regular expression ({error})") from error
        named, count = GROUP in self._pattern.groupindex, self._pattern.groups
        if not named and count != 1:
            raise UserError(f"{KEY}={text}: it has {count or 'no'} groups; put the part that is the patient between "
                            f"( and ), or between (?P<{GROUP}> and ) if there are others")  # fmt: skip
        self._group: str | int = GROUP if named else 1

    def patient(self, path: str) -> str | None:
        """Return the patient of the file at ``path``, relative to ``recipe.images``, with / between folders; None where
        it finds none."""
        match = self._pattern.search(path)
        return (match[self._group] or None) if match else None
