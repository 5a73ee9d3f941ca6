"""The patient from a file's path, where no table names it: ``recipe.patient_pattern``."""

import re

from dira_scale.errors import UserError

KEY, GROUP = "recipe.patient_pattern", "patient"
UNMATCHED = f"{KEY} does not match its path"


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
