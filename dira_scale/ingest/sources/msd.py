"""A task of the Medical Segmentation Decathlon: ``dataset.json`` lists images and masks (Antonelli et al., 2022)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dira_scale.config.schema import Place
from dira_scale.ingest.sources.base import SourceRecord
from dira_scale.ingest.sources.published import files_ending, listed_in, once, sized, threaded
from dira_scale.places.tables import table_error
from dira_scale.places.walk import folder_at


class Msd:
    """Volumes of any of the ten tasks; several modalities (BrainTumour, Prostate) are channels of one file.

    Args:
        images: the folder with ``dataset.json``, ``imagesTr``, ``labelsTr`` and, if wanted, ``imagesTs``.

    Raises:
        UserError: ``dataset.json`` is absent or not the decathlon's; a place in it that leaves the folder.
    """

    label_names: Sequence[str] = ()

    def __init__(self, images: Place):
        self.root = folder_at(images)
        self.list = listed_in(self.root, "dataset.json")
        try:
            content = json.loads(self.list.read_bytes())
            self.training = [(self._place(pair["image"]), self._place(pair["label"])) for pair in content["training"]]
            self.test = [self._place(image) for image in content["test"]]
        except (ValueError, KeyError, TypeError) as error:
            raise table_error(self.list, f"no list of the decathlon ({type(error).__name__}: {error})") from error

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """Listed volumes (one that is missing, or listed before, is rejected) and files beside them that are not.

        The test part has no masks; it is listed only where its folder has been kept.
        """
        return once(threaded(sized, self._records(), workers), self.root)

    def _records(self) -> Iterator[SourceRecord]:
        listed = {path for path, _ in self.training} | set(self.test)
        for path, mask in self.training:
            yield SourceRecord(self._name(path), path, self._name(path), mask=mask, split="training")
        folders = {path.parent for path in listed}
        for path in self.test:
            if path.parent.is_dir():
                yield SourceRecord(self._name(path), path, self._name(path), split="test")
        for folder in sorted(filter(Path.is_dir, folders)):
            for path in files_ending(folder, ".nii", ".nii.gz"):
                if path not in listed:
                    yield SourceRecord(path.relative_to(self.root).as_posix(), path, rejected="not in dataset.json")

    def _name(self, path: Path) -> str:
        return path.name.removesuffix(".gz").removesuffix(".nii")

    def _place(self, cell: Any) -> Path:
        place = PurePosixPath(cell)
        if place.is_absolute() or ".." in place.parts:
            raise table_error(self.list, f"names {cell}, which is not in its folder")
        return self.root / str(place)
