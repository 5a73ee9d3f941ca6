"""BraTS 2018 to 2021: brain MR in four modalities with tumour masks, a folder per patient (Menze et al., TMI 2015)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.walk import folder_at

MODALITIES = ("flair", "t1", "t1ce", "t2")
GRADES = {"HGG": 1.0, "LGG": 0.0}


class Brats(ListedFiles):
    """Folders ``NAME`` with ``NAME_flair.nii.gz`` and so on, below ``HGG`` and ``LGG`` in the years before 2020.

    The label ``high_grade`` is known if folders are sorted by grade.

    Args:
        images: the folder of patients, at any depth.
        modalities: one of flair, t1, t1ce, t2, or several as channels of a volume.

    Raises:
        UserError: an unknown modality; no patients.
    """

    label_names: Sequence[str] = ("high_grade",)

    def __init__(self, images: PathStr, modalities: Sequence[str]):
        self.root = folder_at(images)
        if not modalities or not set(modalities) <= set(MODALITIES):
            raise ArgumentError("modalities", modalities, f"one or several of {', '.join(MODALITIES)}")
        self.modalities = modalities
        self.channels = tuple(modalities) if len(modalities) > 1 else ()

    def listed(self) -> Iterator[SourceRecord]:
        """All patients; rejects those without a modality or the mask, and repeated names."""
        folder, files = None, dict[str, Path]()
        for path in files_ending(self.root, ".nii", ".nii.gz"):  # folder by folder
            if path.parent != folder:
                if folder:
                    yield self._record(folder, files)
                folder, files = path.parent, {}
            kind = path.name.lower().removesuffix(".gz").removesuffix(".nii").rpartition("_")[2]
            files["seg" if kind == "segm" else kind] = path  # one file of 2020 is named W39_1998.09.19_Segm.nii
        if not folder:
            raise ArgumentError("images", str(self.root), "a folder with .nii or .nii.gz, at any depth")
        yield self._record(folder, files)

    def _record(self, folder: Path, files: dict[str, Path]) -> SourceRecord:
        paths = [files[kind] for kind in self.modalities if kind in files]
        image: Path | SourceImage = paths[0] if paths else folder
        if len(self.modalities) == len(paths) > 1:
            image = Channels(self.channels, tuple(paths))
        lacking = [kind for kind in (*self.modalities, "seg") if kind not in files]
        return SourceRecord(
            folder.name,
            image,
            folder.name,
            labels=(GRADES.get(folder.parent.name.upper(), float("nan")),),
            mask=files.get("seg"),
            rejected=f"no {lacking[0]}" if lacking else None,
        )
