"""Frozen features: whole images through encoders in evaluation mode; levels averaged over space, or tokens."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.errors import UserError, nearest
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.dataset.pixels.crops import fill
from dira_scale.judge.evaluation.config import PIXELS
from dira_scale.judge.evaluation.inference import read_ahead
from dira_scale.train.data.batch import CHANNELS_LAST, unit_interval
from dira_scale.train.data.device_copies import DeviceCopies, StageSeconds
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.distributed.processes import default_workers
from dira_scale.train.models.heads import global_average
from dira_scale.train.models.network import Encoder, moved, on_meta

Layer = int | str  # a level of the pyramid, or tokens
# Of transformers that have a class token: the last block's, or those of the last four, alone or beside the mean patch.
CLASS, CLASS_AND_MEAN = TOKENS = "class", "class+mean"
CLASS_4, CLASS_4_AND_MEAN = TOKENS_4 = "class4", "class4+mean"
PATCHES = "patches"  # of maps: all patch tokens of a transformer
# By the number of a tensor's dimensions.
POOLS: Mapping[int, Callable[..., Tensor]] = {4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}

CPU = torch.device("cpu")
ALL = "all"  # the value of ``data.split`` for every split


class UnreadableImagesError(UserError):
    """``messages``: one for each image."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        several = f"{len(messages)} images cannot be read, the first: " if len(messages) > 1 else ""
        super().__init__(several + messages[0])


@dataclass(frozen=True)
class StoredImages:
    """Images of a dataset, without those that cannot be read.

    Attributes:
        stored: [n, C, *size], the stored integers: uint8, uint16 if one of the images has 16 bits, or int16 of volumes.
        low, high: float32 [n] or [n, C], the stored values that become 0 and 1 (``unit_interval``).
        unreadable: a message for each of the others.
    """

    stored: Tensor
    low: Tensor
    high: Tensor
    unreadable: tuple[str, ...] = ()

    def copy_to(self, device: torch.device | str) -> Self:
        """On ``device``, as stored; without waiting for the copy."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("stored", "low", "high")}
        return replace(self, **moved)

    def scaled(self) -> Tensor:
        """float32 [n, C, *size] in [0, 1]."""
        return unit_interval(self.stored, self.low, self.high)


class Images:
    """The images of ``rows`` of a dataset, uncropped, each axis resized to ``size``, on ``device``.

    ``size``: of all axes, or of each. As in the authors' downstream protocol: changes the aspect ratio rather than
    cropping borders. Nothing is random. ``window``: the stored values that become 0 and 1; None: each image's own.
    ``workers``: decoding threads; None: as many as in training.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        rows: np.ndarray,
        size: int | Sequence[int],
        workers: int | None,
        window: Sequence[float] | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.dataset, self.rows, self.window, self.device = dataset, rows, window, device
        self.workers = workers or default_workers(device)
        self.size = dataset.info.dims * [size] if isinstance(size, int) else [*size]

    def batches(self, batch: int) -> Iterator[Tensor]:
        """float32 [b, C, *size] in [0, 1], in the order of ``rows``; the last batch may be short. Decoded ahead.

        Raises UnreadableImagesError after the last image, so that it counts them.
        """
        messages: list[str] = []
        for images in self.loaded(np.split(self.rows, range(batch, len(self.rows), batch))):
            messages += images.unreadable
            if not messages:
                yield images.scaled()
        if messages:
            raise UnreadableImagesError(messages)

    def loaded(self, groups: Iterable[np.ndarray]) -> Iterator[StoredImages]:
        """The images of each group of row numbers, as they are stored."""
        copies = DeviceCopies(self.device, StageSeconds())
        yield from copies.beside(self._decoded(groups, copies.pinned))

    def _decoded(self, groups: Iterable[np.ndarray], pinned: bool) -> Generator[StoredImages, None, None]:
        column, groups = self.dataset.column, [*groups]
        rows = (int(row) for group in groups for row in group)
        images = read_ahead(partial(whole_image, self.dataset, tuple(self.size)), rows, self.workers, self.device)
        for group in groups:
            decoded = [(row, next(images)) for row in group]
            messages = tuple(image for _, image in decoded if isinstance(image, str))
            read = [(row, image) for row, image in decoded if not isinstance(image, str)]
            good = np.array([row for row, _ in read], group.dtype)
            shape = len(good), int(column("channels")[group[0]]), *self.size
            stored = torch.empty(shape, dtype=self._kind(group), pin_memory=pinned)
            for slot, (_, image) in zip(stored.numpy(), read, strict=True):
                slot[...] = image
            low, high = map(torch.from_numpy, self.dataset.range(good, self.window))
            yield StoredImages(stored, low, high, messages)

    def _kind(self, rows: np.ndarray) -> torch.dtype:
        if self.dataset.info.dims == 3:
            return torch.int16
        return torch.uint8 if self.dataset.column("bits")[rows].max() == 8 else torch.uint16


def whole_image(dataset: ShardedDataset, size: tuple[int, ...], row: int) -> np.ndarray | str:
    """Return the image of a row, uncropped, [C, *size]; or why it cannot be read."""
    column = dataset.column
    sides = [float(column(name)[row]) for name in SIDES[dataset.info.dims]]
    whole = Crop((*len(sides) * [0.0], *sides), len(sides) * (False,))
    kind = np.int16 if dataset.info.dims == 3 else np.uint8 if column("bits")[row] == 8 else np.uint16
    image = np.empty((int(column("channels")[row]), *size), kind)
    try:
        fill(dataset.read(row), column("codec")[row], [whole], [image], dataset.shape(row))
        return image
    except (DecodeError, UserError) as error:
        return str(dataset.damaged(row, error) if isinstance(error, DecodeError) else error)


@torch.inference_mode()
def pooled(encoder: Encoder, images: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """One vector an image for each of ``layers``, float32 [b, width]; ``images`` [b, C, *size].

    A level's is its mean over space; ``class`` is the class token, ``class+mean`` that and the mean patch token, one
    behind the other; ``class4`` and ``class4+mean`` have the class tokens of the last four blocks (the four features
    that DINOv2's linear probe chooses from, appendix B.3).
    """
    tokens = encoder.tokens(images.contiguous(memory_format=CHANNELS_LAST[images.dim()]))
    vectors: dict[Layer, Tensor] = {}
    if tokens.class_token is not None and tokens.patches is not None:
        vectors[CLASS] = tokens.class_token.float()
        mean = tokens.patches.float().mean(1)
        vectors[CLASS_AND_MEAN] = torch.cat([vectors[CLASS], mean], 1)
        if set(layers) & {*TOKENS_4}:
            vectors[CLASS_4] = torch.cat([token.float() for token in encoder.class_tokens(images, 4)], 1)
            vectors[CLASS_4_AND_MEAN] = torch.cat([vectors[CLASS_4], mean], 1)
    return [vectors[layer] if layer in vectors else global_average(tokens.maps[layer].float()) for layer in layers]  # type: ignore[index]


@torch.inference_mode()
def mapped(encoder: Encoder, images: Tensor, layer: Layer) -> Tensor:
    """A map of each image, float32 [b, width, *sides]: a level of the pyramid, or ``PATCHES`` in their places."""
    tokens = encoder.tokens(images.contiguous(memory_format=CHANNELS_LAST[images.dim()]))
    if isinstance(layer, int):
        return tokens.maps[layer].float()
    assert tokens.patches is not None and encoder.patch, "of an encoder with patches"
    return tokens.patches.float().transpose(1, 2).unflatten(2, [side // encoder.patch for side in images.shape[2:]])


def map_sides(encoder: Encoder, layer: Layer, size: Sequence[int]) -> list[int]:
    """Return the sides of the maps of images of ``size``, by a pass without values."""
    images = torch.empty(1, encoder.channels[0], *size, device="meta")
    return list(mapped(on_meta(encoder).eval(), images, layer).shape[2:])


def width(encoder: Encoder, layer: Layer) -> int:
    """Return the length of a vector of :func:`pooled`, and how many channels a map has."""
    if isinstance(layer, int):
        return encoder.channels[layer]
    return encoder.channels[-1] * {CLASS_AND_MEAN: 2, CLASS_4: 4, CLASS_4_AND_MEAN: 5}.get(layer, 1)


def features(
    encoders: Sequence[Encoder], images: Images, layers: Sequence[Layer], batch: int
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Raw pixels [n, 256 C], and per encoder the vectors of each of ``layers``, [n, width] (:func:`pooled`).

    One pass over the images, in IEEE fp32; level 1 is at 1/2, level 5 at 1/32 of the image.
    """
    set_fp32("fp32")
    pixels: list[Tensor] = []
    device = images.device
    outputs: list[list[list[Tensor]]] = [[[] for _ in layers] for _ in encoders]
    for encoder in encoders:
        moved(encoder.eval(), device)
    for views in images.batches(batch):
        pixels.append(POOLS[views.dim()](views, PIXELS).flatten(1).cpu())
        for encoder, levels in zip(encoders, outputs, strict=True):
            for values, parts in zip(pooled(encoder, views, layers), levels, strict=True):
                parts.append(values.cpu())
    joined = [[torch.cat(parts).numpy() for parts in levels] for levels in outputs]
    return torch.cat(pixels).numpy(), joined


def rows_of(dataset: ShardedDataset, split: str) -> np.ndarray:
    """Return the row numbers of a split, or of all, in manifest order. Raises UserError if there is none."""
    if split == ALL:
        rows = np.arange(sum(dataset.info.counts.values()))
    elif split in dataset.splits:
        rows = dataset.rows(split)
    else:
        have = ", ".join([*dataset.splits, ALL])
        raise UserError(f"data.split={split}: {dataset.root} has {have}{nearest(split, dataset.splits)}")
    if not len(rows):
        raise UserError(f"data.split={split}: {dataset.root} has no image there")
    return rows
