"""BIDS datasets: the sequences of a session as channels of one volume, labels from participants.tsv."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from dira_scale.archive.sources.label_columns import ClassSpec
from dira_scale.archive.sources.sequences import MASK, Sequences, Session
from dira_scale.base.config.schema import PathStr


class Bids(Sequences):
    """A BIDS dataset (https://bids-specification.readthedocs.io): a volume for each session, ``sub-*/[ses-*/]``.

    Patients are the subjects; ``mask`` may be below derivatives. Labels, classes and attributes are columns of
    participants.tsv, in which ``n/a`` is unknown.

    Args:
        sequences: suffixes (``[T1w, FLAIR]``), or patterns of file names by the channel's name, where sessions have
            several files of one suffix: ``{T1w: "*_run-1_T1w.nii*"}``.
        labels: columns that are numbers.
        class_columns: columns of several classes.
        attributes: as of ``Folder``.

    Others as ``Sequences``.
    """

    empty = "n/a"

    def __init__(
        self,
        images: PathStr,
        sequences: Sequence[str] | Mapping[str, str],
        missing: str = "keep",
        mask: str | None = None,
        split_sequences: bool = False,
        labels: Sequence[str] = (),
        class_columns: ClassSpec = None,
        attributes: Sequence[str] = (),
    ):
        if not isinstance(sequences, Mapping):
            listed = [sequences] if isinstance(sequences, str) else list(sequences or ())
            sequences = {suffix: f"*_{suffix}.nii*" for suffix in listed}
        needed = labels or class_columns or attributes
        table = f"{str(images).rstrip('/')}/participants.tsv" if needed else None
        columns = {"file": "participant_id", "patient": "participant_id"}
        super().__init__(
            images, sequences, None, missing, mask, split_sequences, table, columns, [*labels], None, class_columns,
            None, attributes,
        )  # fmt: skip

    def _session(self, pattern: "re.Pattern[str]", path: str) -> Session | None:
        *folders, file = PurePosixPath(path).parts
        subject = next((n for n, folder in enumerate(folders) if folder.startswith("sub-")), None)
        raw = subject == 0 or pattern is self.patterns.get(MASK)
        if subject is None or not raw or not pattern.fullmatch(file):
            return None
        below = [folder for folder in folders[subject + 1 : subject + 2] if folder.startswith("ses-")]
        return Session("/".join([folders[subject], *below]), folders[subject])
