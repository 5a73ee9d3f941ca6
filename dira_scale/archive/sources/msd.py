"""A task of the Medical Segmentation Decathlon: ``dataset.json`` lists images and masks (Antonelli et al., 2022)."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, listed_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import table_error
from dira_scale.base.storage.walk import folder_at


class Msd(ListedFiles):
    """Volumes of any of the ten tasks; multiple modalities (BrainTumour, Prostate) are channels of one file.

    Args:
        images: the folder with ``dataset.json``, ``imagesTr``, ``labelsTr`` and, if wanted, ``imagesTs``.

    Raises:
        UserError: ``dataset.json`` is missing or not the decathlon's, or names a path outside the folder.
    """

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        self.list = listed_in(self.root, "dataset.json")
        try:
            content = json.loads(self.list.read_bytes())
            self.training = [(self._path(pair["image"]), self._path(pair["label"])) for pair in content["training"]]
            self.test = [self._path(image) for image in content["test"]]
            channels = [str(name) for name in content.get("modality", {}).values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise table_error(self.list, f"not the decathlon's list ({type(error).__name__}: {error})") from error
        numbered = (name if channels.count(name) == 1 else f"{name} {n}" for n, name in enumerate(channels))
        self.channels = tuple(numbered) if len(channels) > 1 else ()
        self.modality = ("CT" if {*channels} == {"CT"} else "MR") if channels else None  # MR: "MRI", "T2", "FLAIR" …

    def listed(self) -> Iterator[SourceRecord]:
        """Listed volumes, rejected if missing or repeated, and unlisted files beside them, rejected.

        The test part has no masks; it is included only if its folder exists.
        """
        listed = {path for path, _ in self.training} | set(self.test)
        for path, mask in self.training:
            yield SourceRecord(
                self._name(path),
                self._image(path),
                self._name(path),
                mask=mask,
                split="training",
                modality=self.modality,
            )
        folders = {path.parent for path in listed}
        for path in self.test:
            if path.parent.is_dir():
                name, image = self._name(path), self._image(path)
                yield SourceRecord(name, image, name, split="test", modality=self.modality)
        for folder in sorted(filter(Path.is_dir, folders)):
            for path in files_ending(folder, ".nii", ".nii.gz"):
                if path not in listed:
                    yield SourceRecord(path.relative_to(self.root).as_posix(), path, rejected="not in dataset.json")

    def _image(self, path: Path) -> Path | SourceImage:
        return Channels(self.channels, (path,)) if self.channels else path

    def _name(self, path: PurePath) -> str:
        return path.name.removesuffix(".gz").removesuffix(".nii")

    def _path(self, cell: Any) -> Path:
        path = PurePosixPath(cell)
        if path.is_absolute() or ".." in path.parts:
            raise table_error(self.list, f"names {cell}, which is outside its folder")
        if not self._name(path):
            raise table_error(self.list, f"names {cell!r}, which is no name of a volume")
        return self.root / str(path)
