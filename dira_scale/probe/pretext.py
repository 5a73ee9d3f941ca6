"""Pretext probes (PCRL: Zhou et al., ICCV 2021, Table 1): do frozen features tell how an image was changed?

Each image is seen in all its changes, and which one it is takes the place of its labels. Nothing is drawn.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.features import Images
from dira_scale.probe.probing import Parts, ProbeTask
from dira_scale.train.data.geometry.orientation import quarter_turns

AXES = ("depth", "height", "width")
FILTERS = {4: "bilinear", 5: "trilinear"}  # by the number of a tensor's dimensions


class Pretext:
    """A change of images, one of ``classes``; of each image there is an example of every class, in their order."""

    classes: tuple[str, ...]
    pictures: int  # that are made of an image

    def seen(self, images: Tensor) -> Tensor:
        """``images`` [b, C, *size] as encoders see them: [b · pictures, C, *size]."""
        raise NotImplementedError

    def examples(self, features: np.ndarray) -> np.ndarray:
        """The features of all examples [n · classes, …], by those of the pictures [n · pictures, d]."""
        return features


class Turns(Pretext):
    """By how many quarters is an image turned? 4 classes, of volumes 10 (``methods.rotation``).

    Raises ``UserError`` unless ``sides`` are equal.
    """

    def __init__(self, sides: tuple[int, ...]) -> None:
        if len(set(sides)) > 1:
            raise UserError(f"pretext=rotation: views of {' x '.join(map(str, sides))} need equal sides to be turned")
        self.turns = quarter_turns(len(sides))
        names = {plane: "".join(f" about {axis}" for i, axis in enumerate(AXES, -3) if i not in plane)
                 for _, plane in self.turns}  # fmt: skip
        self.classes = tuple(
            f"{90 * quarters}{names[plane] if quarters and len(sides) == 3 else ''}" for quarters, plane in self.turns
        )
        self.pictures = len(self.turns)

    def seen(self, images: Tensor) -> Tensor:
        return torch.stack([images.rot90(*turn) for turn in self.turns], 1).flatten(0, 1)


class PatchPositions(Pretext):
    """The task of locating a patch beside the middle one of a grid of 3 on each axis. 8 classes, of volumes 26.

    A patch's side is a quarter of the image's, a gap half of that (Doersch et al., ICCV 2015), so that edges do not go
    on from one into the next. With ``cells`` they are the nine in the middle of a grid of so many on each axis, which
    adjoin: 14 are PCRL's (sec. 4.4). Patches are resized to the size of the image, which encoders were trained on. An
    example has the features of the middle patch, then of the other.
    """

    def __init__(self, sides: tuple[int, ...], cells: int | None = None) -> None:
        if min(sides) < (cells or 4):
            raise UserError(
                f"data.size: a grid of {cells or 4} cells needs sides of at least as many, not {min(sides)}"
            )
        steps = [*product((-1, 0, 1), repeat=len(sides))]
        self.middle = len(steps) // 2
        self.classes = tuple(" ".join(f"{along:+d}" for along in step) for step in steps if any(step))
        self.pictures = len(steps)
        axes = list[list[slice]]()  # of each the three patches
        for side in sides:
            patch, gap = (side // 4, side // 8) if cells is None else (side // cells, 0)
            first = (side - 3 * patch - 2 * gap) // 2 if cells is None else (cells // 2 - 1) * patch
            axes.append([slice(at, at + patch) for at in range(first, first + 3 * (patch + gap), patch + gap)])
        self.cuts: list[tuple[Any, ...]] = [(..., *cut) for cut in product(*axes)]

    def seen(self, images: Tensor) -> Tensor:
        patches = torch.stack([images[cut] for cut in self.cuts], 1).flatten(0, 1)
        return F.interpolate(patches, images.shape[2:], mode=FILTERS[images.dim()], align_corners=False)

    def examples(self, features: np.ndarray) -> np.ndarray:
        of_image = features.reshape(-1, self.pictures, features.shape[1])
        others = np.delete(of_image, self.middle, 1)
        middle = np.broadcast_to(of_image[:, self.middle, None], others.shape)
        return np.concatenate((middle, others), 2).reshape(-1, 2 * features.shape[1])


PRETEXTS: Mapping[str, Callable[[tuple[int, ...]], Pretext]] = {
    "rotation": Turns,
    "position": PatchPositions,
    "position14": partial(PatchPositions, cells=14),
}


class Changed(Images):
    """``Images`` as a ``pretext`` has them."""

    def __init__(self, pretext: Pretext, *shown: Any) -> None:
        super().__init__(*shown)
        self.pretext = pretext

    def batches(self, batch: int) -> Iterator[Tensor]:
        """Yield batches of as many pictures, at least of one image's."""
        for images in super().batches(max(1, batch // self.pretext.pictures)):
            yield self.pretext.seen(images)


def pretext_task(name: str, pretext: Pretext, patients: Parts) -> ProbeTask:
    """The task of telling the classes of ``pretext`` apart, of images of ``patients`` [n]; ``name``: its label."""
    count = len(pretext.classes)
    return ProbeTask(
        tuple(f"{name}: {each}" for each in pretext.classes),
        {part: np.tile(np.eye(count), (len(of), 1)) for part, of in patients.items()},
        {part: np.repeat(of, count) for part, of in patients.items()},
        {name: range(count)},
    )
