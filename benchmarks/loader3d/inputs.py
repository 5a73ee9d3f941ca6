"""What every contender reads: CT volumes as shards and as single files, and the crops to take.

The volumes are phantoms (``recipe=phantom_ct``), by default of a scanner's 512 rows and columns, kept between runs as
drawing one takes half a minute. Single files are written from the stored voxels, so all contenders read the same ones.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.loader3d.turns import CropList
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main as shard
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.order import Order
from dira_scale.train.data.requests import Requests
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import Jitter, ViewSpec
from dira_scale.train.data.views.parts import Blur, Cutout, InverseCutout, Shuffle

SIZES = {"64x64x32": (32, 64, 64), "96x96x96": (96, 96, 96)}  # the papers' name; (depth, height, width)
BATCHES = 256  # of different crops


@dataclass(frozen=True)
class VolumeInputs:
    """Volumes on disk, and crops of one size.

    Attributes:
        dataset: shards of all volumes, a batch of which has one crop of each.
        folder: the volumes as ``npy/NUMBER.npy`` and ``nifti/NUMBER.nii.gz``, in the order of the samples.
        crops: those that the loader draws with the seed 0.
    """

    dataset: ShardedDataset
    folder: Path
    crops: CropList

    @property
    def spec(self) -> LoaderSpec:
        """One thread, one batch ahead: one core."""
        order, views = _order(self.dataset), _views(self.crops.size)
        return LoaderSpec([self.dataset], "train", order, views, seed=0, workers=1, prefetch=1)

    @property
    def shards(self) -> list[Path]:
        return [self.dataset.file(name) for name in self.dataset.info.shards]

    @property
    def npy(self) -> list[Path]:
        return sorted((self.folder / "npy").iterdir())

    def volumes(self) -> list[np.ndarray]:
        """All volumes, mapped."""
        return [np.load(file, mmap_mode="r") for file in self.npy]


def source(folder: Path, patients: int, size: int) -> list[str]:
    """The words that shard the volumes."""
    from dira_scale.archive.phantom.ct.dataset import generate  # needs nibabel

    made = generate(folder / f"phantoms-{patients}-{size}", patients, format="nifti", size=size)
    return ["recipe=phantom_ct", "recipe.format=nifti", f"recipe.images={made}"]


def prepare(words: list[str], folder: Path) -> ShardedDataset:
    """Shard the volumes by the command that users call, and write them as single files."""
    printed, splits = io.StringIO(), "recipe.splits={train: 1, val: 0, test: 0}"
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = shard([*words, f"out={folder / 'shards'}", "recipe.secret=false", splits, "workers=1"])
    if code:
        raise UserError(f"sharding the benchmark's volumes failed (exit code {code}):\n{printed.getvalue()}")
    dataset = ShardedDataset.open(folder / "shards")
    for name in ("npy", "nifti"):
        (folder / name).mkdir()
    import nibabel

    for number, row in enumerate(dataset.rows("train").tolist()):
        voxels = np.asarray(dataset.voxels(row)[...])
        np.save(folder / "npy" / f"{number:05d}.npy", voxels)
        nibabel.Nifti1Image(voxels.T, np.eye(4), dtype=np.int16).to_filename(folder / "nifti" / f"{number:05d}.nii.gz")
    return dataset


def crop_list(dataset: ShardedDataset, size: tuple[int, ...]) -> CropList:
    """The crops of the first ``BATCHES`` batches of our loader."""
    requests = Requests(Samples([dataset], "train"), _order(dataset), _views(size), seed=0)
    drawn = list(requests.of(range(BATCHES)))
    starts = np.stack([request.geometries[0].box[:, :3] for request in drawn])
    return CropList(np.stack([request.index for request in drawn]), starts.astype(np.int64), size)


def _order(dataset: ShardedDataset) -> Order:
    volumes = len(dataset.rows("train"))
    return Order((volumes,), seed=0, batch=volumes)


def _views(size: tuple[int, ...]) -> ViewSpec:
    """One crop of this size, not resized and not mirrored."""
    return ViewSpec(
        count=1, size=size, flip=0.0, jitter=Jitter(p=0), blur=Blur(p=0), cutout=Cutout(p=0),
        inverse_cutout=InverseCutout(p=0), shuffle=Shuffle(p=0),
    )  # fmt: skip
