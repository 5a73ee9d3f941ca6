"""Pictures of restored images: what stands side by side is turned alike, and so is what the table compares."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dira_scale.pretrain.objective import Objective
from dira_scale.pretrain.pictures import (
    GAP,
    Restoration,
    _restorations,
    draw_restorations,
    middle_planes,
    view_spacing,
    write_pictures,
)
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import BlockMask, BlockwiseMask, Inpaint, Outpaint
from dira_scale.train.data.geometry.orientation import reorient
from dira_scale.train.data.views import Blur, Cutout, Distortion, InverseCutout, Jitter, Shuffle, ViewSpec, draw
from dira_scale.train.distributed.world import World
from dira_scale.train.methods import build
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.method import Terms

COUNT, SIZE = 12, 64
WORLD = World(SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0), "fp32")  # type: ignore[arg-type]
# PCRL's, whose only damage is what is cut out: all else can be compared pixel by pixel.
CUT: dict[str, Any] = {"jitter": Jitter(p=0), "blur": Blur(p=0), "inverse_cutout": InverseCutout(p=0)}
CUT |= {"shuffle": Shuffle(p=0), "cutout": Cutout(p=1.0, boxes=3, side=(32, 32), stop=0), "border": -16}
FORMS = ["PCRL", "PCRLReleased"]


class HeldOut:
    """One batch: pictures whose four corners differ, brighter than 0 everywhere."""

    def __init__(self, views: ViewSpec) -> None:
        index, sides = np.arange(COUNT), np.full(COUNT, SIZE)
        parts = [draw(views, 0, 0, index, 0 * index, view, sides, sides) for view in range(2)]
        steep = torch.linspace(40, 120, SIZE)
        pictures = (steep[:, None] + steep / 2 + torch.arange(COUNT)[:, None, None]).to(torch.uint8)[:, None]
        # As the loader, which mirrors.
        flips = tuple(torch.from_numpy(geometry.flip) for geometry, _ in parts)
        views_ = tuple(torch.where(flip[:, 1, None, None, None], pictures.flip(-1), pictures) for flip in flips)
        low, high = torch.zeros(COUNT, 2), torch.full((COUNT, 2), 255.0)
        distortions: tuple[Distortion, ...] = tuple(distortion for _, distortion in parts)
        self.batch = Batch(views_, distortions, torch.from_numpy(index), low, high, step=3, epoch=0, flips=flips)

    def batches(self) -> list[tuple[Batch, int]]:
        return [(self.batch, COUNT)]


class Leaves(nn.Module):
    """Restores nothing: returns its input, turned as the target is."""

    def forward(self, clean: tuple[torch.Tensor, ...], distorted: tuple[torch.Tensor, ...], batch: Batch) -> Terms:
        turned = batch.distortions[0].orientations[:, 0]
        return Terms({}, reorient(distorted[0], turned), reorient(clean[0], turned), turned)


def of_volumes(index: np.ndarray) -> np.ndarray:
    raise AssertionError("asked of images")


def objective_of(views: ViewSpec, hides: bool = False) -> Objective:
    return Objective({"di": 0.5, "re": 9.79}, Adversary(), views, WORLD, hides=hides)


@pytest.mark.parametrize(
    "geometry", [{"rotation": 10.0}, {"target_flip": "released"}], ids=["turned with the input", "not mirrored"]
)
@pytest.mark.parametrize("form", FORMS)
def test_pcrls_clean_and_distorted_images_differ_only_where_something_was_cut_out(
    form: str, geometry: dict[str, Any]
) -> None:
    """In training's own forward pass; the restored image is that of the method's error."""
    views = ViewSpec(size=SIZE, orientations=2, **CUT, **geometry)
    model = {
        "_target_": "TimmUNet",
        "encoder": "test_resnet",
        "weights": None,
        "decoder_channels": (8,) * 5,
        "bn_groups": 1,
        "zero_init_residual": False,
    }
    torch.manual_seed(0)
    method = build({"_target_": form, "dim": 8, "queue": 64}, model, views, COUNT).eval()
    held_out: Any = HeldOut(views)
    with torch.no_grad():
        [actual] = _restorations(objective_of(views), method, held_out, ["di", "re"], of_volumes)
        objective, batch = objective_of(views), held_out.batch.to("cpu")
        monitors = objective(method, batch, ["di", "re"]).monitors
    assert (actual.hole.flatten(1).sum(1) > 0).all() and actual.hole.float().mean() < 0.3
    assert (actual.distorted[actual.hole] == 0).all()
    torch.testing.assert_close(actual.distorted[~actual.hole], actual.clean[~actual.hole], rtol=0, atol=1e-5)
    error = (actual.restored - actual.clean).square().mean()
    torch.testing.assert_close(error, monitors["re_ordinary" if form == "PCRL" else "re_mixed"])
    upright = objective.clean(batch)[0]
    turned = {int(i) for i in range(COUNT) if not torch.equal(actual.clean[i], upright[i])}
    assert bool(turned) == (form == "PCRL")  # the released form restores its second pass's images


def test_a_restorer_that_returns_its_input_has_the_inputs_errors(tmp_path: Path) -> None:
    views = ViewSpec(size=SIZE, orientations=1, rotation=10.0, **CUT)
    stage: Any = SimpleNamespace(name="pcrl", terms=("di", "re"))
    draw_restorations(tmp_path, stage, objective_of(views), Leaves(), HeldOut(views), 4, of_volumes)  # type: ignore[arg-type]
    table = {row.pop("restorer"): row for row in json.loads((tmp_path / "restoration.json").read_text())}
    assert table["restored"] == table["distorted"] and table["telea"]["mse"] < table["distorted"]["mse"]
    grid = np.asarray(Image.open(tmp_path / "pcrl.png"))
    assert grid.shape == (4 * (SIZE + GAP), 3 * (SIZE + GAP))
    clean, distorted, restored = np.split(grid, 3, axis=1)
    assert (distorted == restored).all()
    different = np.abs(clean.astype(int) - distorted) > 1
    assert 0.02 < different.mean() < 0.3 and (distorted[different] == 0).all()


@pytest.mark.parametrize("target_flip", ["with_input", "released"])
def test_the_hole_of_a_masked_view_is_its_mask(target_flip: str) -> None:
    """Whatever its constant, and turned as the target is."""
    mask = BlockMask(32, 0.5, fill=0.3)
    views = ViewSpec(
        size=SIZE, orientations=1, target_flip=target_flip, **CUT | {"cutout": Cutout(p=0)}, corruptions={"mask": mask}
    )
    held_out: Any = HeldOut(views)
    [actual] = _restorations(objective_of(views), Leaves(), held_out, ["re"], of_volumes)
    assert (actual.hole.flatten(1).float().mean(1) == 0.5).all()
    assert torch.equal(actual.hole, (actual.distorted == torch.tensor(0.3)))


def test_the_hole_of_a_view_whose_tokens_are_hidden_is_their_patches() -> None:
    """Black, although the loader and the loop leave their pixels: what no trivial restorer may see."""
    mask = BlockwiseMask(16, (0.2, 0.6), p=0.8)
    views = ViewSpec(size=SIZE, orientations=1, **CUT | {"cutout": Cutout(p=0)}, corruptions={"mask": mask})
    held_out: Any = HeldOut(views)
    [actual] = _restorations(objective_of(views, hides=True), Leaves(), held_out, ["re"], of_volumes)
    drawn = held_out.batch.distortions[0].corruptions["mask"]["mask"]
    hidden = drawn.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    turned = reorient(hidden, held_out.batch.distortions[0].orientations[:, 0])
    assert hidden.any() and torch.equal(actual.hole, turned) and torch.equal(actual.distorted == 0, turned)


def test_images_of_which_a_mask_hides_nothing_are_neither_drawn_nor_counted(tmp_path: Path) -> None:
    clean = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    hole[::2, :, 8:16] = True
    shown = clean.masked_fill(hole, 0.0)
    restored = torch.where(hole, 0.5, clean)
    parts = (clean, shown, hole, restored, torch.zeros(3, 2, dtype=torch.bool), torch.ones(3, 2).numpy())
    some, none = Restoration(*parts), Restoration(*(part[1:2] for part in parts))
    write_pictures(tmp_path, "dir", [some], 4)
    write_pictures(tmp_path, "dira", [none], 4)
    rows = {row["restorer"]: row for row in json.loads((tmp_path / "restoration.json").read_text())}
    errors = (restored - clean)[::2].square().mean()
    assert {row["n"] for row in rows.values()} == {2} and rows["restored"]["mse"] == pytest.approx(float(errors))
    assert Image.open(tmp_path / "dir.png").height == 2 * (32 + GAP) and not (tmp_path / "dira.png").exists()


def test_the_hole_of_a_painted_view_is_where_it_differs() -> None:
    painting = {"painting": Outpaint(fill="noise", side=(0.4, 0.6)), "boxes": Inpaint(fill="constant")}
    views = ViewSpec(size=SIZE, orientations=1, **CUT | {"cutout": Cutout(p=0)}, corruptions=painting)
    held_out: Any = HeldOut(views)
    [actual] = _restorations(objective_of(views), Leaves(), held_out, ["re"], of_volumes)
    assert 0.2 < actual.hole.float().mean() < 0.9
    assert torch.equal(actual.hole, actual.distorted != actual.clean)


def test_the_first_view_is_shown_whatever_the_sizes_of_the_others() -> None:
    plain = ViewSpec(size=SIZE, orientations=1, rotation=10.0, **CUT)
    several = replace(plain, crops=({"count": 1}, {"size": SIZE // 2, "count": 1}))
    alone: Any = HeldOut(plain)
    beside: Any = HeldOut(several)
    first, second = beside.batch.views
    beside.batch = replace(beside.batch, views=(first, second[..., ::2, ::2]))
    [expected] = _restorations(objective_of(plain), Leaves(), alone, ["re"], of_volumes)
    [actual] = _restorations(objective_of(several), Leaves(), beside, ["re"], of_volumes)
    for name in ("clean", "distorted", "hole", "restored", "mirrored"):
        assert torch.equal(getattr(actual, name), getattr(expected, name))


def test_of_a_volume_three_planes_are_drawn_head_up_in_its_proportions() -> None:
    """A dot in each plane: its place is told by hand, in voxels of 3 x 1 x 1 mm, 16 pixels to a mm."""
    for (z, y, x), plane, location in (
        ((2, 1, 4), 0, (1, 4)),  # axial: the front is up
        ((3, 3, 1), 1, (0, 1)),  # coronal: the last slice is up
        ((0, 4, 3), 2, (9, 4)),  # sagittal: the front is to the left
    ):
        volume = np.zeros((4, 6, 6), np.float32)
        volume[z, y, x] = 1
        planes = middle_planes(volume, (3.0, 1.0, 1.0))
        assert [p.shape for p in planes] == [(96, 96), (192, 96), (192, 96)]
        lit = planes[plane]
        middle = [np.average(index, weights=lit) for index in np.indices(lit.shape)]
        sides = np.array([16 if plane == 0 else 48, 16])
        assert (
            np.abs(middle - (16 * np.array(location) + sides / 2)).max() < 12
        )  # at an edge light falls off on one side
        assert all(np.abs(other).max() == 0 for number, other in enumerate(planes) if number != plane)
    narrow = middle_planes(np.zeros((96, 96, 48), np.float32), (2.0, 2.0, 2.0))
    assert [p.shape for p in narrow] == [(96, 96)] * 3
    assert (narrow[1][:, 48:] == 0.5).all() and (narrow[2] == 0).all()


def test_views_of_resized_crops_have_the_spacing_of_their_crops() -> None:
    views = ViewSpec(size=(16, 32, 32), extents=((32, 32, 64),), **CUT | {"cutout": Cutout(p=0), "border": 3})
    stored = np.array([[3.0, 1.0, 1.0], [np.nan, 1.0, 1.0]])
    assert view_spacing(views, stored).tolist() == [[6.0, 1.0, 2.0], [2.0, 1.0, 2.0]]
    assert view_spacing(replace(views, spacing=(2.0, 1.0, 1.0)), stored).tolist() == [[4.0, 1.0, 2.0]] * 2
    several = replace(views, extents=(), crops=({"extents": ((32, 32, 64),)}, {"size": (8, 8, 8)}))
    assert np.array_equal(view_spacing(several, stored), view_spacing(views, stored))
