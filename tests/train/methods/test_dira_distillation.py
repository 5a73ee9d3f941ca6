"""DiRA around DINO and DINOv2, of images and volumes: what is restored is what the student did not see, in one pass."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from train.data.volumes import NONE
from train.methods.masked import UNET, VIT3D, batch_of, built, masked, voxels
from train.methods.tiny import assert_same_loss

from dira_scale.base.errors import UserError
from dira_scale.train.data.distort.corruptions import BlockMask, BlockwiseMask, PatchMask
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.dira import DiRA

HEADS = {"prototypes": 12, "hidden": 9, "bottleneck": 5, "frozen": 0}
VIT = UNET | {"encoder": "test_vit", "arguments": {"dynamic_img_size": False}}
CASES: dict[str, tuple[dict[str, Any], ViewSpec]] = {
    "images": (VIT, ViewSpec(
        size=64, crops=({"count": 2}, {"size": 32, "count": 2, "corruptions": {}}),
        corruptions={"mask": BlockwiseMask(16, (0.2, 0.6), p=0.5)},
    )),
    "volumes": (VIT3D, ViewSpec(
        size=(16, 16, 32), crops=({"count": 2}, {"size": (8, 16, 16), "count": 2, "corruptions": {}}),
        corruptions={"mask": PatchMask(8, (0.2, 0.75), p=0.5)}, **NONE,
    )),
}  # fmt: skip
TERMS = ["di", "ibot", "koleo", "re", "ad"]


def dira(case: str, base: str = "DINOv2", views: ViewSpec | None = None, **options: Any) -> DiRA:
    model, own = CASES[case]
    node = {"_target_": "DiRA", "base": {"_target_": base, **HEADS}, "restoration": "mask", "restore": "both"}
    method = built(node | options, model, views or own, groups=1)
    assert isinstance(method, DiRA)
    with torch.no_grad():
        for parameter in method.parameters():  # initial weights of a ViT see no difference between images
            parameter.mul_(3 if parameter.dim() > 1 else 1)
        if base == "DINOv2":
            method.base.mask_token.normal_()
    return method


def step(views: ViewSpec, count: int = 6, seed: int = 1) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Any]:
    """Clean views, distorted ones whose pixels are all there, and the batch with the global views' masks."""
    generator = np.random.default_rng(seed)
    clean = tuple(torch.from_numpy(generator.random((count, 1, *each.sides))) for each in views.each)
    distorted = tuple(view * 0.8 + 0.1 for view in clean)
    mask = views.corruptions["mask"]
    drawn = [mask.draw(generator.random((count, mask.numbers(views.sides))), views.sides) for _ in range(2)]
    return clean, distorted, batch_of([{name: torch.from_numpy(x) for name, x in each.items()} for each in drawn])


def hidden_of(batch: Any, views: ViewSpec) -> list[Tensor]:
    return [voxels(each.corruptions["mask"]["mask"], views.sides) for each in batch.distortions]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_restoration_is_the_formula_beside_the_bases_own_terms(case: str) -> None:
    method, (clean, distorted, batch) = dira(case), step(CASES[case][1])
    method.enter_stage(TERMS)
    passes: list[str] = []
    parts = {"student": method.encoder, "teacher": method.base.teacher, "decoder": method.decoder}
    if hasattr(method.encoder, "pyramid"):
        parts |= {"finest": method.encoder.pyramid[0], "teacher's finest": method.base.teacher.pyramid[0]}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: passes.append(name))
    terms = method(clean, distorted, batch)
    # One for each size, one for each view; finer maps are of the views that are restored.
    assert sorted(passes) == ["decoder"] * 2 + ["finest"] * ("finest" in parts) + ["student"] * 2 + ["teacher"]
    passes.clear()
    method.enter_stage(["di"])
    method(clean, distorted, batch)
    assert sorted(passes) == ["student"] * 2 + ["teacher"]
    method.enter_stage(TERMS)
    alone = method.base(clean, distorted, batch).losses
    assert {**alone, "re": terms.losses["re"]} == terms.losses
    expected, views = torch.zeros((), dtype=torch.float64), hidden_of(batch, method.views)
    empty = torch.cat(views).flatten(1).sum(1) == 0
    assert empty.any() and not empty.all()
    for number, hidden in enumerate(views):
        blocks = batch.distortions[number].corruptions["mask"]["mask"].flatten(1)
        pyramid = method.encoder.tokens(distorted[number], hidden=blocks, fill=method.base.mask_token).maps
        restored = torch.sigmoid(method.head(method.decoder(pyramid)))
        seen, target = distorted[number], clean[number]
        torch.testing.assert_close(terms.restored.chunk(2)[number], torch.where(hidden, restored, seen))
        torch.testing.assert_close(terms.target.chunk(2)[number], torch.where(hidden, target, seen))
        for image, wanted, where in zip(restored, target, hidden, strict=True):
            expected = expected + (image - wanted)[where].square().sum() / max(1, int(where.sum())) / (2 * len(hidden))
    assert_same_loss(method, terms.losses["re"], expected, rtol=1e-9, slopes=1e-6)


def test_only_hidden_patches_are_restored_and_the_student_does_not_see_them(case: str) -> None:
    method, (clean, distorted, batch) = dira(case), step(CASES[case][1])
    method.enter_stage(TERMS)
    hidden = hidden_of(batch, method.views)
    first = method(clean, distorted, batch)
    slope = torch.autograd.grad(first.losses["re"], first.restored, retain_graph=True)[0]
    assert not slope[~torch.cat(hidden)].any() and slope[torch.cat(hidden)].all()
    slopes = {term: torch.autograd.grad(loss, first.features, retain_graph=True) for term, loss in first.losses.items()}
    for term, of_views in slopes.items():  # as the monitors of gradients
        assert all(slope.any() for slope in of_views), term

    def with_hidden(views: tuple[Tensor, ...], value: float) -> tuple[Tensor, ...]:
        filled = [torch.where(where, value, view) for where, view in zip(hidden, views, strict=False)]
        return (*filled, *views[2:])

    other = method(clean, with_hidden(distorted, 0.5), batch)
    assert torch.equal(other.restored[torch.cat(hidden)], first.restored[torch.cat(hidden)])
    assert other.losses["re"] == first.losses["re"] and other.losses["ibot"] != first.losses["ibot"]
    assert method(with_hidden(clean, 7.0), distorted, batch).losses["re"] > 10 * first.losses["re"]
    visible = tuple(torch.where(where, view, 7.0) for where, view in zip(hidden, clean, strict=False))
    assert method((*visible, *clean[2:]), distorted, batch).losses["re"] == first.losses["re"]


def test_a_stage_of_restoration_alone_hides_the_same(case: str) -> None:
    method, (clean, distorted, batch) = dira(case, restore="first"), step(CASES[case][1])
    method.enter_stage(["di", "koleo", "re"])
    whole = method(clean, distorted, batch)
    method.enter_stage(["re"])
    alone = method(clean, distorted, batch)
    assert whole.losses.keys() == {"di", "koleo", "re"} and alone.losses.keys() == {"re"}
    torch.testing.assert_close(alone.losses["re"], whole.losses["re"], rtol=1e-10, atol=0)
    alone.losses["re"].backward()
    idle = {name.split(".")[1] for name, p in method.base.named_parameters(prefix="base") if p.grad is None}
    assert {name for name in idle if "head" in name} == {"head", "patch_head", "teacher_head", "teacher_patch_head"}
    assert method.base.mask_token.grad.any()
    before = [p.clone() for p in method.base.teacher.parameters()]
    method.after_step()
    assert all(map(torch.equal, before, method.base.teacher.parameters()))


def test_terms_of_the_base_have_its_weights_times_that_of_discrimination() -> None:
    method = dira("images", weights={"di": 0.5, "re": 10, "ad": 0.001})
    assert method.weights == {"di": 0.5, "ibot": 0.5, "koleo": 0.05, "re": 10, "ad": 0.001}


@pytest.mark.parametrize("network", CASES)
def test_dino_restores_distorted_global_crops(network: str) -> None:
    """Everywhere, or what a mask of pixels hides, of which neither network sees anything."""
    for restoration in ("mse", "mask"):
        views = CASES[network][1]
        block = BlockMask(16 if network == "images" else 8, 0.5)
        views = ViewSpec(size=views.size, crops=views.crops, corruptions={"mask": block}, **NONE)
        method, (clean, distorted, batch) = dira(network, "DINO", views, restoration=restoration), step(views)
        terms, hidden = method(clean, distorted, batch), hidden_of(batch, views)
        maps = [method.encoder(view) for view in distorted[:2]]
        restored = torch.cat([torch.sigmoid(method.head(method.decoder(each))) for each in maps])
        errors = (restored - torch.cat(clean[:2])).square()
        expected = errors.mean() if restoration == "mse" else errors[torch.cat(hidden)].mean()
        torch.testing.assert_close(terms.losses["re"], expected)
        assert terms.losses.keys() == {"di", "re"} and terms.restored.shape[0] == 2 * len(clean[0])
        assert all(slope.any() for slope in torch.autograd.grad(terms.losses["re"], terms.features))


def test_what_nobody_hides_or_two_would_restore_is_refused() -> None:
    for node, message in (
        (
            {"_target_": "DiRA", "base": {"_target_": "DINO", **HEADS}, "restoration": "mask"},
            r"^views\.corruptions\.mask: expected a BlockMask",
        ),
        ({"_target_": "MAE"}, r"^views\.count=4: expected 1: MAE"),
    ):
        with pytest.raises(UserError, match=message):
            built(node, *CASES["images"], groups=1)
    single = ViewSpec(size=64, count=1, corruptions={"mask": BlockwiseMask(16)})
    with pytest.raises(UserError, match=r"^views\.corruptions\.mask: .* BlockwiseMask hides nothing but tokens"):
        built({"_target_": "MAE"}, VIT, single, groups=1)
    with pytest.raises(UserError, match=r"^method\.base: .*: MAE restores views itself"):
        built({"_target_": "DiRA", "base": {"_target_": "MAE"}}, UNET, masked(64, 32), groups=1)
