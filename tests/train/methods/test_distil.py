"""Distillation: losses and gradients in float64 beside plain formulas on timm's own networks, what is stored, refused
and planned; several processes: test_processes.py."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import toy_run
from harness import assert_equal_runs, weights
from safetensors.torch import save_file
from torch import Tensor
from train.data.volumes import NONE
from train.methods.masked import UNET, UNET3D, VIT3D, built
from train.methods.tiny import Facts, assert_same_loss

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.fleet.forecast.network import fake_task
from dira_scale.fleet.forecast.rehearsal import rehearse
from dira_scale.pretrain import main
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.dira import DiRA
from dira_scale.train.methods.distil import Distil
from dira_scale.train.models.architecture import architecture, architecture_metadata
from dira_scale.train.models.teacher import Teacher, TeacherSettings, teachers_in
from dira_scale.train.runs.description import read_description

EXACT = {"dynamic_img_size": False}  # timm resamples positions in float32
VIT = UNET | {"encoder": "test_vit", "arguments": EXACT}
IMAGES, VOLUMES = ViewSpec(size=64, count=1), ViewSpec(size=(16, 32, 64), count=1, **NONE)
TERMS = ["global", "dense"]
HUB = "hf://timm/{}@0123456789012345678901234567890123456789/model.safetensors"
WORDS = ["experiment=small_distil", "model.encoder=test_resnet", "method.hidden=8", "data.shards=any", "data.batch=4"]
TINY = ["precision=fp32", "data.size=32", "data.batch=8", "data.workers=1", "parallel.threads=1", "validate.batch=8",
        "validate.every=100", "log_every=1", "stages.distil.epochs=2"]  # fmt: skip
# The student's network, its views, and how many planes the teachers see.
CASES: dict[str, tuple[dict[str, Any], ViewSpec, int]] = {
    "resnet": (UNET, IMAGES, 1), "vit": (VIT, IMAGES, 1),
    "unet3d": (UNET3D, VOLUMES, 4), "vit3d": (VIT3D, VOLUMES, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """timm's own, with files of their weights."""
    result, folder = {}, tmp_path_factory.mktemp("weights")
    for seed, (name, sized) in enumerate((("test_vit", {"img_size": 64}), ("test_resnet", {}))):
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=0, **sized)
        with torch.no_grad():
            for parameter in network.parameters():  # initial weights of a ViT see no difference between images
                parameter.mul_(3 if parameter.dim() > 1 else 1)
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        result[name] = folder / f"{name}.safetensors", network.double().eval()
    return result


def distil(case: str, networks: dict[str, tuple[Path, Any]], dira: bool = False) -> Any:
    model, views, slices = CASES[case]
    teachers = [
        {"weights": str(path), "encoder": name, "weight": weight}
        for weight, (name, (path, _)) in zip((1.0, 0.5), networks.items(), strict=True)
    ]
    node: dict[str, Any] = {"_target_": "Distil", "teachers": teachers, "hidden": 7, "slices": slices}
    node = {"_target_": "DiRA", "base": node} if dira else node
    return built(node, model, views, groups=1)


def step(views: ViewSpec, seed: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.rand(count, 1, *views.sides, generator=generator, dtype=torch.float64) for _ in range(2))
    return clean, (clean + noise) / 2


def taught(network: Any, clean: Tensor, slices: int) -> tuple[Tensor, Tensor]:
    """What timm's network says: of the whole, and of each place [b, slices, C, h, w]."""
    if clean.dim() == 4:
        clean = clean[:, :, None]
    whole, places = [], []
    for sample in clean:
        depth = sample.shape[1]
        images = [sample[:, int(depth * (number + 0.5) / slices)] for number in range(slices)]
        images = [F.interpolate(image[None], (64, 64), mode="bilinear", antialias=True) for image in images]
        with torch.no_grad():
            out = network.forward_features((torch.cat(images).expand(-1, 3, -1, -1) - 0.5) / 0.5)
        if out.dim() == 3:  # a class token, then 4 x 4 patches
            whole.append(out[:, 0].mean(0))
            places.append(out[:, 1:].transpose(1, 2).reshape(slices, -1, 4, 4))
        else:
            whole.append(out.mean((0, 2, 3)))
            places.append(out)
    return torch.stack(whole), torch.stack(places)


def described(method: Distil, case: str, view: Tensor) -> tuple[Tensor, Tensor]:
    """The student: of the whole, and of each place [b, C, (d,) h, w]."""
    tokens = method.encoder.tokens(view)
    if case == "vit":
        assert tokens.class_token is not None and tokens.patches is not None
        return tokens.class_token, tokens.patches.transpose(1, 2).reshape(len(view), -1, 4, 4)
    last = tokens.maps[-1]
    return last.flatten(2).mean(2), last


def head(layers: Any, x: Tensor) -> Tensor:
    first, norm, _, last = layers
    x = F.layer_norm(F.linear(x, first.weight, first.bias), x.new_empty(7).shape, norm.weight, norm.bias)
    return F.linear(F.gelu(x), last.weight, last.bias)


def compared(method: Distil, case: str, clean: Tensor, view: Tensor, networks: Any) -> list[dict[str, list[Tensor]]]:
    """Of each teacher and term: prediction [n, D] and target [n, D] that is not standardised."""
    slices = CASES[case][2]
    whole, places = described(method, case, view)
    result = []
    for number, (_, network) in enumerate(networks.values()):
        of_whole, of_places = taught(network, clean, slices)
        maps = places if places.dim() == 5 else places[:, :, None], of_places.transpose(1, 2)
        size = [min(each) for each in zip(*(one.shape[2:] for one in maps), strict=True)]
        rows = [F.adaptive_avg_pool3d(one, size).permute(0, 2, 3, 4, 1).flatten(0, 3) for one in maps]
        result.append(
            {
                "global": [head(method.heads["global"][number], whole), of_whole],
                "dense": [head(method.heads["dense"][number], rows[0]), rows[1]],
            }
        )
    return result


def losses(pairs: list[dict[str, list[Tensor]]], seen: list[dict[str, list[Tensor]]]) -> dict[str, Tensor]:
    """The formulas; ``seen``: targets of earlier steps."""
    result = {}
    for term in TERMS:
        of_each = []
        for number, pair in enumerate(pairs):
            prediction, target = pair[term]
            if seen:
                rows = torch.cat([each[term] for each in seen[number]])
                variance = rows.var(0, unbiased=False)
                target = (target - rows.mean(0)) / variance.clamp(min=1e-3 * variance.mean().item()).sqrt()
            cosine = (prediction * target).sum(1) / prediction.norm(dim=1) / target.norm(dim=1)
            difference = (prediction - target).abs()
            smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean()
            of_each.append((1 - cosine).mean() if term == "global" else 0.9 * (1 - cosine).mean() + 0.1 * smooth)
        result[term] = (of_each[0] + 0.5 * of_each[1]) / 1.5
    return result


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_formulas_of_standardised_features(case: str, networks: Any) -> None:
    """Two steps: the second is standardised by the first. Gradients reach the student alone."""
    method, views = distil(case, networks), CASES[case][1]
    before = [teacher.hash for teacher in method.teachers]
    seen: list[Any] = []
    for number in range(2):
        clean, view = step(views, number)
        terms = method((clean,), (view,), Facts(step=number))
        pairs = compared(method, case, clean, view, networks)
        for term, expected in losses(pairs, seen).items():
            assert_same_loss(method, terms.losses[term], expected, term, rtol=1e-6, slopes=1e-4)
        method.after_step()
        seen = [[{term: pair[term][1] for term in TERMS}] for pair in pairs]
    assert terms.monitors.keys() == {"global_0", "global_1", "dense_0", "dense_1"}
    for teacher, digest, (_, network) in zip(method.train().teachers, before, networks.values(), strict=True):
        assert not teacher.encoder.training and teacher.hash == digest
        state = teacher.encoder.state_dict()
        assert not any(p.requires_grad or p.grad is not None for p in teacher.encoder.parameters())
        stored = network.state_dict()
        assert all(torch.equal(state[f"model.{name}"], stored[name]) for name in stored if f"model.{name}" in state)


def test_evaluation_standardises_and_notes_nothing(networks: Any) -> None:
    method = distil("resnet", networks)
    method((x := step(IMAGES, 0)[0],), (x,), Facts(step=0))
    method.after_step()
    sums = {name: value.clone() for name, value in method.state_dict().items() if name.endswith("sums")}
    method.eval()((x,), (x,), Facts(step=1))
    assert sums and all(torch.equal(method.state_dict()[name], value) for name, value in sums.items())
    assert not any(scale.noted for of_term in method.scales.values() for scale in of_term)


def test_dira_restores_beside_it_from_one_pass(networks: Any) -> None:
    method = distil("vit", networks, dira=True)
    assert isinstance(method, DiRA)
    passes: list[int] = []
    method.encoder.register_forward_hook(lambda *_: passes.append(1))
    clean, view = step(IMAGES, 0)
    method.enter_stage([*TERMS, "re"])
    terms = method((clean,), (view,), Facts(step=0))
    assert len(passes) == 1 and terms.losses.keys() == {*TERMS, "re"}
    restored = torch.sigmoid(method.head(method.decoder(method.encoder(view))))
    torch.testing.assert_close(terms.losses["re"], (restored - clean).square().mean())
    method.enter_stage(["global", "re"])
    assert not any(p.requires_grad for p in method.base.heads["dense"].parameters())
    assert method((clean,), (view,), Facts(step=0)).losses.keys() == {"global", "re"}


def test_a_run_goes_on_bit_for_bit_without_its_teacher_in_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an own run as teacher; refused once that has other weights."""
    shards, teacher = toy_run.write(tmp_path / "toy"), toy_run.train(tmp_path / "teacher", 0)
    words = [*WORDS[:3], *TINY, f"data.shards={shards}", f"method.teachers=[{teacher}]"]

    def run(folder: str, *overrides: str) -> int:
        return main([*words, f"run={tmp_path / folder}", *overrides])

    assert run("unbroken", "steps=4") == 0
    assert run("stopped", "steps=2") == 0 and run("stopped", "steps=4") == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "unbroken")
    stored = weights(tmp_path / "stopped")
    assert {name.split(".")[1] for name in stored if name.startswith("method.")} == {"encoder", "heads", "scales"}
    assert int(stored["method.scales.global.0.sums"][0, 0]) == 4 * 8
    training = read_description(tmp_path / "stopped").training
    assert training[-1] == "teacher: test_resnet with weights teacher, licence: unknown"
    toy_run.train(tmp_path / "other", 1)
    teacher.rename(tmp_path / "moved")
    (tmp_path / "other").rename(teacher)
    capsys.readouterr()
    assert run("stopped", "steps=6") == 2
    assert "method.teachers: other weights than the run began with" in capsys.readouterr().err


RANDOM = "{weights: random, encoder: test_resnet}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"^method\.teachers=\[\]: expected at least one"),
        (["method.teachers=[gone]"], r"^method\.teachers\[0\]\.encoder=null: expected timm's name"),
        (["method.teachers=[{weights: any, encoder: resnet18x}]"], r"^method\.teachers\[0\]\.encoder=resnet18x"),
        ([f"method.teachers=[{RANDOM[:-1]}, mean: [0.5, 0.5]}}]"], r"mean=\[0.5, 0.5\]: expected and deviation: none"),
        (["method.teachers=[{weights: a, weigh: 1}]"], r"^method\.teachers\[0\]\.weigh: expected only deviation"),
        (["method.teachers=[WINDOWED]", "data.range=[-200,240]"], r"data\.range, or that key as \[-160\.0, 240\.0\]"),
        (["method.teachers=[WINDOWED,gone]", "data.range=[-160,240]"], r"^method\.teachers\[1\]\.encoder=null"),
        (["method.teachers=[VOLUMES]"], r"^method\.teachers\[0\]\.weights=\S+: expected .* of images.* is of volumes"),
        ([f"method.teachers=[{RANDOM}]", "views.count=2"], r"^views\.count=2: expected 1: Distil takes one view"),
        ([f"method.teachers=[{RANDOM}]", "channels=2"], r"expected weights of a network of 2 channels"),
    ],
)  # fmt: skip
def test_teachers_that_do_not_fit_are_refused_without_data(words: list[str], message: str, tmp_path: Path) -> None:
    save_file({"any": torch.zeros(1)}, tmp_path / "of_volumes.safetensors", architecture_metadata(UNET3D))
    windowed = {"input": '{"size": [64, 64], "channels": 3, "window": [-160, 240]}'}
    values = architecture(UNET).build_encoder(64).state_dict()
    save_file(values, tmp_path / "windowed.safetensors", architecture_metadata(UNET) | windowed)
    for name in ("windowed", "of_volumes"):
        placeholder = name.removeprefix("of_").upper()
        words = [word.replace(placeholder, str(tmp_path / f"{name}.safetensors")) for word in words]
    with pytest.raises(UserError, match=message):
        PretrainBlueprint(compose("pretrain", [*WORDS, *words])).check(ranks=1)


def test_a_missing_file_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = toy_run.write(tmp_path / "toy")
    assert main([*WORDS[:3], f"data.shards={shards}", f"method.teachers=[{tmp_path / 'gone.pth'}]"]) == 2
    assert f"method.teachers.0={tmp_path / 'gone.pth'}: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 70, (0.485, 0.456, 0.406)),
        ("vit_tiny_patch16_224.augreg_in21k", 64, 3 * (0.5,)),
    ],
)
def test_an_address_of_timms_says_network_and_normalisation(name: str, size: int, mean: tuple[float, ...]) -> None:
    """Without the Hub, as a plan does."""
    with torch.device("meta"):
        teacher = Teacher(TeacherSettings(HUB.format(name)), (64, 64))
    assert (teacher.encoder.name, teacher.size) == (name.partition(".")[0], size)
    assert (teacher.input.mean, teacher.channels) == (mean, 3)


def test_a_plan_counts_a_teachers_forward_pass_and_memory() -> None:
    """One that sees images of four times as many pixels; it costs nothing backwards."""

    def rehearsed(size: int) -> Any:
        teachers = f"method.teachers=[{{weights: any, encoder: test_resnet, size: {size}}}]"
        fake = fake_task(PretrainBlueprint(compose("pretrain", [*WORDS, "model.bn_groups=1", teachers])))
        (teacher,) = teachers_in(fake.task.module)
        done = rehearse(fake, fake.stages[-1], 4, 1, gpu=False)
        assert done.teachers == 4 * sum(parameter.numel() for parameter in teacher.encoder.parameters())
        assert done.buffers > sum(tensor.numel() * 4 for tensor in teacher.tensors()) > 0 and not teacher.hash
        return done

    small, large = rehearsed(64), rehearsed(128)
    of_teacher = (large.forward.flops - small.forward.flops) / 3
    assert 0 < of_teacher < small.forward.flops and large.backward.flops == small.backward.flops
