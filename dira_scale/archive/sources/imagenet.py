"""ILSVRC2012, ImageNet's 1,000 classes, as published (Russakovsky et al., IJCV 2015)."""

from collections.abc import Iterator
from pathlib import Path

import scipy.io

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, folder_in, listed_in
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.store import locate
from dira_scale.base.storage.tables import read_names, read_table, table_error
from dira_scale.base.storage.walk import folder_at

CLASS = "class"
META = "meta.mat"


class ImageNet(ListedFiles):
    """``train/SYNSET/*.JPEG``, and ``val/`` with a folder for each synset, too, or with all images in it.

    A class is named by its synset (``n01440764``), and numbered by their order, as everywhere.

    Args:
        images: the folder with ``train`` and ``val``.
        truth: of a ``val`` without folders: the development kit's ``ILSVRC2012_validation_ground_truth.txt``, beside
            its ``meta.mat``, or Kaggle's ``LOC_val_solution.csv``.

    Raises:
        UserError: a folder or file is missing, or not of this form; a number is no synset's.
    """

    def __init__(self, images: PathStr, truth: PathStr | None = None) -> None:
        self.root = folder_at(images)
        self.folders = {split: folder_in(self.root, split) for split in ("train", "val")}
        synsets = sorted(path.name for path in self.folders["train"].iterdir() if path.is_dir())
        if len(synsets) < 2:
            raise ArgumentError("images", images, f"a folder for each synset in train, not {len(synsets)}")
        self.numbers = {synset: number for number, synset in enumerate(synsets)}
        self.classes, self.label_names = {CLASS: synsets}, (CLASS,)
        self.truth = _truth(locate(truth, "recipe.truth")) if truth else {}

    def listed(self) -> Iterator[SourceRecord]:
        """Yield all images; reject those of no synset that is trained on."""
        for split, folder in self.folders.items():
            for path in files_ending(folder, ".jpeg", ".jpg"):
                synset = self.truth.get(path.stem) if path.parent == folder else path.parent.name
                label = self.numbers.get(synset or "")
                rejected = "of no synset of train (recipe.truth names those of val)" if label is None else None
                name = path.relative_to(self.root).as_posix()
                yield SourceRecord(name, path, labels=(float(label or 0),), split=split, rejected=rejected)


def _truth(path: Path) -> dict[str, str]:
    """The synset of each image of ``val``, by its name without an ending."""
    if path.suffix == ".csv":
        rows = (row.cells for row in read_table(path, ["ImageId", "PredictionString"]))
        return {cells["ImageId"]: cells["PredictionString"].partition(" ")[0] for cells in rows}
    kit = listed_in(path.parent, META, key="truth")
    try:
        with kit.open("rb") as file:
            table = scipy.io.loadmat(file, squeeze_me=True)["synsets"]
        pairs = zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)
        synsets = {str(number): str(synset) for number, synset in pairs}
    except Exception as error:  # whatever scipy has for a damaged file
        raise table_error(kit, f"not the development kit's table of synsets ({error})") from error
    numbers = [*read_names(path)]
    if unknown := [number for number in numbers if number not in synsets]:
        raise table_error(path, f"'{unknown[0]}' is no synset's number in {META}")
    return {f"ILSVRC2012_val_{n:08}": synsets[number] for n, number in enumerate(numbers, 1)}
