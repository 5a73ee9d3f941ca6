"""Pairs of crops: distributed as by plain rejection, always above their bound, whatever they are drawn with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats
from train.data.volumes import spec

from dira_scale.base.arguments import ArgumentError
from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.train.data import random
from dira_scale.train.data.geometry import pair
from dira_scale.train.data.geometry.pair import PairCrop
from dira_scale.train.data.geometry.volume import VolumeCrop
from dira_scale.train.data.views import draw

PCRL = ((32, 64, 64), (48, 96, 96), (96, 96, 96), (16, 32, 32), (64, 112, 112))


@dataclass(frozen=True)
class Case:
    """Pairs of ``sizes`` in a volume of ``sides``."""

    sizes: tuple[tuple[int, ...], ...]
    sides: tuple[int, ...]
    iou: float
    same_size: bool = False
    border: tuple[int, ...] = ()
    step: tuple[float, ...] | None = None

    @property
    def rule(self) -> PairCrop:
        return PairCrop(VolumeCrop(self.sizes, 0.5, border=self.border), self.iou, self.same_size)

    def drawn(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [count, 2 n] of both."""
        sides = np.tile(self.sides, (count, 1))
        step = None if self.step is None else np.tile(self.step, (count, 1))
        first, second = self.rule.draw(orientations(self.rule, count), numbers(count), sides, step)
        return first.box, second.box


CASES = {
    "released": Case(PCRL, (110, 150, 160), 0.25),
    "paper": Case((*PCRL[:4], (56, 112, 112)), (110, 150, 160), 0.2, same_size=True),
    "a border": Case(((8, 16, 16), (12, 24, 24)), (24, 60, 60), 0.3, border=(3, 15, 40)),
    "half a voxel": Case(((8, 16, 16), (12, 24, 20)), (24, 40, 31), 0.25, step=(0.5625, 1.375, 1.0)),
    "padded": Case(((8, 16, 16), (12, 24, 20)), (10, 40, 13), 0.4),
    "in a plane": Case(((8, 16), (12, 12), (14, 6)), (20, 30), 0.5),
}


def numbers(count: int, seed: int = 7) -> pair.CandidateNumbers:
    index = np.arange(count)
    return lambda rows, first, n: random.uniform(seed, 0, index[rows], 0 * rows, 0, n, 5, first)


def orientations(rule: PairCrop, count: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(count)
    first, second = (random.uniform(7, 0, index, 0 * index, view, rule.crop.numbers, 0) for view in range(2))
    return first, second


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The overlap of boxes [..., 2 n] as a share of their union."""
    n = first.shape[-1] // 2
    (a, b), (c, d) = ((box[..., :n], box[..., :n] + box[..., n:]) for box in (first, second))
    common = np.prod(np.maximum(np.minimum(b, d) - np.maximum(a, c), 0), -1)
    return common / (np.prod(b - a, -1) + np.prod(d - c, -1) - common)


def rejected(case: Case, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Plain rejection: sizes and positions of both, one after another, until they overlap by enough."""
    generator, kept = np.random.default_rng(seed), []
    extents = [np.array(size) * (case.step or 1.0) for size in case.sizes]
    border = np.rint(np.array(case.border or (0,) * len(case.sides)) * (case.step or 1.0))

    def allowed(extent: np.ndarray) -> list[list[int]]:
        """Where a box may start on each axis: all within all, and off the edges, or as near the middle as it can be."""
        starts = []
        for side, e, edge in zip(case.sides, extent, border, strict=True):
            inside = [s for s in range(-200, 200) if (s >= 0 and s + e <= side) or (s <= 0 and s + e >= side)]
            while edge and not (kept_off := [s for s in inside if min(s, inside[-1] - s) >= edge]):
                edge -= 1
            starts.append(kept_off if edge and e <= side else inside)
        return starts

    every = [(extent, allowed(extent)) for extent in extents]
    total = 0
    while total < count:
        boxes = []
        chosen = generator.integers(len(every), size=(2, 20000))
        for which in chosen if not case.same_size else (chosen[0], chosen[0]):
            box = np.empty((20000, 2 * len(case.sides)))
            for number, (extent, starts) in enumerate(every):
                rows = np.flatnonzero(which == number)
                box[np.ix_(rows, range(len(starts), 2 * len(starts)))] = extent
                for axis, positions in enumerate(starts):
                    box[rows, axis] = generator.choice(positions, len(rows))
            boxes.append(box)
        enough = iou(*boxes) > case.iou
        kept.append(np.stack(boxes)[:, enough])
        total += int(enough.sum())
    first, second = np.concatenate(kept, 1)[:, :count]
    return first, second


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", CASES)
def test_pairs_are_as_by_plain_rejection(name: str, count: int) -> None:
    case = CASES[name]
    first, second = case.drawn(count)
    assert (iou(first, second) > case.iou).all()
    plain = rejected(case, count)
    n = len(case.sides)

    def described(one: np.ndarray, two: np.ndarray) -> dict[str, np.ndarray]:
        volumes = {"first volume": one[:, n:].prod(1), "second volume": two[:, n:].prod(1)}
        starts = {f"start {number}": start for number, start in enumerate([*one.T[:n], *two.T[:n]])}
        apart = {f"apart {axis}": two[:, axis] - one[:, axis] for axis in range(n)}
        return {"iou": iou(one, two)} | volumes | starts | apart

    for name, values in described(first, second).items():
        p = stats.ks_2samp(np.round(values, 6), np.round(described(*plain)[name], 6)).pvalue
        assert p > 0.01, name


def test_a_pair_does_not_depend_on_which_others_are_drawn_with_it() -> None:
    """On several ranks, in any order; each view's box is drawn with the view."""
    views = spec(8, 8, 8, extents=((8, 16, 16), (12, 20, 24)), iou=0.3, turns=0.5, transpose=0.5)
    index, occurrence = np.arange(40) * 7919, np.arange(40) % 3
    sides = np.stack((20 + index % 7, 40 + index % 11, 50 - index % 5))

    def drawn(part: np.ndarray, view: int) -> list[Crop]:
        geometry, _ = draw(views, 3, part % 2, index[part], occurrence[part], view, *sides[:, part])
        return [geometry.crop(i) for i in range(len(part))]

    everyone = np.arange(40)
    for view in range(2):
        whole = drawn(everyone, view)
        for parts in (np.split(everyone, 2), np.split(everyone, 8), [everyone[::-1]]):
            for part in parts:
                assert drawn(part, view) == [whole[i] for i in part]
    first, second = (np.array([crop.box for crop in drawn(everyone, view)]) for view in range(2))
    assert (iou(first, second) > 0.3).all() and (first != second).any(1).all()


def test_the_last_resort_keeps_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any candidate that does, those of the sizes and positions that overlap most."""
    monkeypatch.setattr(pair, "MOST", pair.AT_ONCE)
    for case in CASES.values():
        sides, count = np.tile(case.sides, (4, 1)), 4
        step = None if case.step is None else np.tile(case.step, (count, 1))
        far = lambda rows, first, n: np.full((len(rows), n), 1 - 2.0**-32)  # the farthest candidate of all  # noqa: E731
        first, second = case.rule.draw(orientations(case.rule, count), far, sides, step)
        assert (iou(first.box, second.box) > case.iou).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"iou": 0.2, "count": 3}, "iou: expected 2 views, drawn of one volume, not 3 of one image"),
        ({"same_size": True}, "same_size: expected a bound of the pairs' overlap beside it, such as an iou of 0.2"),
        (
            {"iou": 0.25, "turns": 0.5, "extents": ((16, 16, 64), (16, 8, 40))},
            "iou: expected less than 0.143, the most that two crops of 16 x 16 x 64, 16 x 8 x 40 have where one of",
        ),
        ({"turns": 0.5, "target_flip": "released"}, "target_flip: expected with_input, of views with turns"),
        ({"turns": 0.5, "spacing": (2, 1, 1.5)}, r"spacing: expected one .*, got \(2, 1, 1.5\)"),
        ({"orientations": 2, "size": (8, 8, 9)}, r"orientations: expected 0, or a size of \[depth, side, side\]"),
    ],
)
def test_what_no_pair_can_meet_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        spec(*changed.pop("size", (8, 8, 8)), **changed)
