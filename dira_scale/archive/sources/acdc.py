"""ACDC: short-axis cine MR of the heart, masks at end-diastole and end-systole (Bernard et al., TMI 2018)."""

import math
from collections.abc import Iterator, Mapping, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import read_names, table_error
from dira_scale.base.storage.walk import folder_at

GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
PHASES = ("ED", "ES")


class Acdc(ListedFiles):
    """Two volumes of each patient, the frames that ``Info.cfg`` names ED and ES; the label is the patient's group.

    The other frames, which are in ``patientNNN_4d.nii.gz`` only, are left alone.

    Args:
        images: the folder with ``training`` and ``testing``.

    Raises:
        UserError: no ``Info.cfg`` at any depth; one without a frame's number, or with an unknown group.
    """

    label_names: Sequence[str] = ("group",)
    classes: Mapping[str, Sequence[str]] = {"group": GROUPS}

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        self.patients = sorted(path for path in files_ending(self.root, "info.cfg") if path.name.lower() == "info.cfg")
        if not self.patients:
            raise ArgumentError("images", images, "the folder with training and testing, with Info.cfg at any depth")

    def listed(self) -> Iterator[SourceRecord]:
        """Both phases of all patients; rejects missing files."""
        for info in self.patients:
            folder, pairs = info.parent, (line.partition(":") for line in read_names(info))
            facts = {key.strip(): value.strip() for key, _, value in pairs}
            group = facts.get("Group", "")
            if group and group not in GROUPS:
                raise table_error(info, f"Group: '{group}' is none of {', '.join(GROUPS)}")
            for phase in PHASES:
                if not facts.get(phase, "").isdecimal():
                    raise table_error(info, f"{phase}: expected the number of a frame, got '{facts.get(phase, '')}'")
                frame = f"{folder.name}_frame{int(facts[phase]):02d}"
                mask = folder / f"{frame}_gt.nii.gz"
                yield SourceRecord(
                    f"{folder.name}_{phase}",
                    folder / f"{frame}.nii.gz",
                    folder.name,
                    folder.name,
                    (float(GROUPS.index(group)) if group else math.nan,),
                    mask=mask if mask.is_file() else None,
                    split=folder.parent.name,
                )
