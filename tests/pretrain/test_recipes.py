"""Every recipe composes under every preset, can be trained, and has the figures of its paper.

What presets change is on the page of experiments, which tests/test_docs.py compares with what is composed.
"""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import folder
from dira_scale.base.errors import UserError
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.methods import method_class
from dira_scale.train.runs.identity import differences, execution, seedless

EXPERIMENTS = sorted(f.stem for f in (folder("configs") / "experiment").glob("*.yaml"))
PRESETS = sorted(f.stem for f in (folder("configs") / "pretrain" / "preset").glob("*.yaml"))

# The papers' and their released code's figures, written down independently of configs/:
# base: (rate, its reference batch, weight decay, other for biases and norms, schedule, warm-up, end, fixed, di epochs,
# BatchNorm groups, zero-initialised residual branches)
FIGURES: dict[str, tuple[Any, ...]] = {
    "moco": (0.03, None, 1e-4, {}, "cosine_epoch", 0, 0, [], 800, 4, False),
    "simsiam": (0.05, 256, 1e-4, {}, "cosine_epoch", 0, 0, ["predictor"], 800, 1, True),
    "barlow": (0.2, 256, 1e-6, {"lr": 0.0048, "weight_decay": 0}, "cosine", 10, 0.001, [], 1000, 1, True),
    "byol": (0.2, 256, 1.5e-6, {"weight_decay": 0}, "cosine", 10, 0, [], 1000, 1, True),
    "vicreg": (0.2, 256, 1e-6, {"lr": 0.2, "weight_decay": 0}, "cosine", 10, 0.001, [], 1000, 1, True),
}
HEADS: dict[str, dict[str, Any]] = {
    "moco": {
        "queue": 65536,
        "dim": 128,
        "temperature": 0.2,
        "momentum": 0.999,
        "batch_norm": False,
        "shuffle": "blocks",
    },
    "simsiam": {"dim": 2048, "bottleneck": 512},
    "barlow": {"dim": 8192, "off_diagonal": 0.0051, "scale": 1.0},
    "byol": {"hidden": 4096, "dim": 256, "momentum": 0.996},
    "vicreg": {"dim": 8192, "invariance": 25.0, "variance": 25.0, "covariance": 1.0},
}
# PCRL's restoration loss is of images divided by ImageNet's deviations, ours of images in [0, 1].
NORMALISED = sum(1 / deviation**2 for deviation in (0.229, 0.224, 0.225)) / 3
CUBE, SIZES = [32, 64, 64], {(32, 64, 64), (48, 96, 96), (96, 96, 96), (16, 32, 32)}  # of volumes: view, most crops
DAMAGE: dict[str, dict[str, Any]] = {
    "jitter": {"brightness": 0.4, "contrast": 0.4, "p": 1.0, "saturation": 0.0, "hue": 0.0},
    "blur": {"sigma": [0.1, 2.0], "p": 0.5},
    "cutout": {"p": 1.0, "boxes": 3, "side": [32, 32], "stop": 0.0},
    "inverse_cutout": {"p": 0.0},
    "shuffle": {"p": 0.0},
}
OPTIMIZER = {
    "moco": "torch.optim.SGD", "simsiam": "torch.optim.SGD", "barlow": "timm.optim.Lars", "byol": "timm.optim.Lars",
    "vicreg": "timm.optim.Lars",
}  # fmt: skip


MISSING = object()


@cache
def recipe(*overrides: str) -> DictConfig:
    """Composed once for all tests, which change none."""
    return compose("pretrain", ["data.shards=somewhere", *overrides])


@cache
def composed(*overrides: str) -> Any:
    return OmegaConf.to_object(recipe(*overrides))


def shown(config: Any) -> tuple[Any, ...]:
    """The figures of a configuration, as FIGURES has them."""
    optim, model = config.optim, config.model
    rate, decay = optim.optimizer["lr"], optim.optimizer["weight_decay"]
    schedule = optim.one_dimensional, optim.schedule, optim.warmup_epochs, optim.end, optim.fixed_rate
    rest = config.stages["di"].epochs, model.bn_groups, model.zero_init_residual
    return (rate, optim.reference_batch, decay, *schedule, *rest)


@pytest.mark.parametrize("base", sorted(FIGURES))
def test_a_base_alone_has_its_papers_figures(base: str) -> None:
    config = composed(f"experiment={base}")
    assert shown(config) == FIGURES[base]
    assert {k: v for k, v in config.method.items() if k != "_target_"} == HEADS[base]
    assert config.optim.optimizer["_target_"] == OPTIMIZER[base]
    assert (config.optim.optimizer["momentum"], config.optim.optimizer.get("trust_coeff", 0.001)) == (0.9, 0.001)
    assert (config.data.size, config.data.batch, config.model.encoder) == (224, 256, "resnet50")
    assert {name for name, stage in config.stages.items() if stage.epochs} == {"di"}


@pytest.mark.parametrize("base", sorted(FIGURES))
def test_dira_adds_two_joint_stages_to_it(base: str) -> None:
    config, expected, head = composed(f"experiment=dira_{base}"), list(FIGURES[base]), dict(HEADS[base])
    if base == "barlow":  # its loss is scaled, and the rate of what LARS does not adapt makes up for that
        expected[3], head["scale"] = {"lr": 0.2, "weight_decay": 0}, 0.024
        assert 0.2 * head["scale"] == pytest.approx(0.0048)
    assert shown(config) == tuple(expected)
    assert {k: v for k, v in config.method["base"].items() if k != "_target_"} == head
    assert config.method["weights"] == {"di": 1.0, "re": 10.0, "ad": 0.001}
    assert (config.method["restoration"], config.method["restore"]) == ("mse", "first")
    assert (config.data.size, config.data.batch, config.model.encoder) == (224, 256, "resnet50")
    assert config.model.decoder_channels == [256, 128, 64, 32, 16]
    joint = {name: (stage.terms, stage.epochs) for name, stage in config.stages.items() if name != "di"}
    assert joint == {"dir": (["di", "re"], 400), "dira": (["di", "re", "ad"], 400)}
    assert {stage.patience for stage in config.stages.values()} == {30}
    discriminator = {"_target_": "torch.optim.Adam", "lr": 2e-4, "betas": [0.5, 0.999]}
    assert (config.optim.discriminator, config.adversary.loss) == (discriminator, "lsgan")
    assert config.views["target_flip"] == "with_input"


def test_dino_and_dinov2_have_their_papers_figures() -> None:
    """DINO: sec. 3.2, ViT-S/16, 300 epochs. DINOv2: the released code's defaults and its Sinkhorn-Knopp."""
    dino, large = composed("experiment=dino"), composed("experiment=dinov2_vits14")
    assert {k: v for k, v in dino.method.items() if k != "_target_"} == {
        "prototypes": 65536, "hidden": 2048, "bottleneck": 256, "student_temperature": 0.1, "teacher_temperature": 0.07,
        "first_temperature": 0.04, "warmup": 30 / 300, "momentum": 0.996, "centring": "softmax", "centre_momentum": 0.9,
        "frozen": pytest.approx(1 / 300, rel=0.02), "frozen_encoder": None, "batch_norm": False,
        "rises": None,
    }  # fmt: skip
    assert {k: v for k, v in large.method.items() if k != "_target_"} == {
        "weights": {"di": 1.0, "ibot": 1.0, "koleo": 0.1}, "prototypes": 65536, "hidden": 2048, "bottleneck": 256,
        "student_temperature": 0.1, "teacher_temperature": 0.07, "first_temperature": 0.04, "warmup": 30 / 100,
        "momentum": 0.992, "centring": "sinkhorn", "centre_momentum": 0.9, "frozen": 1 / 100, "frozen_encoder": None,
        "batch_norm": False, "separate": True,
    }  # fmt: skip
    for config, rate, scale, local in ((dino, 5e-4, 0.25, (10, 96)), (large, 4e-3, 0.32, (8, 98))):
        optim, (first, second, others) = config.optim, config.views["crops"]
        assert optim.optimizer == {"_target_": "torch.optim.AdamW", "lr": rate, "weight_decay": 0.04}
        assert (optim.weight_decay_end, optim.one_dimensional, optim.clip) == (0.4, {"weight_decay": 0}, 3.0)
        assert (optim.schedule, optim.warmup_epochs, rate * optim.end) == ("cosine", 10, pytest.approx(1e-6))
        assert first["scale"] == second["scale"] == [scale, 1.0] and others["scale"] == [0.05, scale]
        assert [crops["blur"]["p"] for crops in (first, second, others)] == [1.0, 0.1, 0.5]
        assert (others["count"], others["size"]) == local and config.views["jitter"]["p"] == 0.8
    assert (dino.optim.layer_decay, large.optim.layer_decay, large.optim.patch_factor) == (None, 0.9, 0.2)
    assert large.views["corruptions"]["mask"] == {
        "_target_": "BlockwiseMask", "patch": 14, "share": [0.1, 0.5], "p": 0.5,
    }  # fmt: skip
    assert [(dino.model.encoder, dino.optim.reference_batch), (large.model.encoder, large.data.batch)] == [
        ("vit_small_patch16_224", 256), ("vit_small_patch14_dinov2", 1024),
    ]  # fmt: skip
    assert dino.model.positions == large.model.positions == "dino"


def test_what_the_released_code_does_otherwise() -> None:
    """DINOv2's ``GaussianBlur(p)`` is torchvision's ``RandomApply`` with 1 - p; DINO's temperature has 30 values."""
    released = composed("experiment=dinov2_vits14", "views=dinov2_released").views["crops"]
    said = composed("experiment=dinov2_vits14").views["crops"]
    for code, paper in zip(released, said, strict=True):
        assert code["blur"]["p"] == pytest.approx(1 - paper["blur"]["p"])
        assert {**code, "blur": None} == {**paper, "blur": None}
    assert _differences("preset=released", "dino") == {"method.rises": (None, 30)}


def test_lejepa_has_its_codes_figures() -> None:
    config = composed("experiment=lejepa")
    optim, (whole, local) = config.optim, config.views["crops"]
    assert {k: v for k, v in config.method.items() if k != "_target_"} == {
        "dim": 512, "hidden": 2048, "sigreg": 0.05, "slices": 1024,
    }  # fmt: skip
    assert optim.optimizer == {"_target_": "torch.optim.AdamW", "lr": 5e-4, "weight_decay": 0.05}
    assert (optim.schedule, optim.warmup_epochs, optim.end, optim.reference_batch) == ("cosine", 1, 0.001, None)
    assert (whole["count"], local["count"], local["size"], config.data.size) == (2, 8, 98, 224)
    assert (whole["scale"], local["scale"], config.views["blur"]["p"]) == ([0.3, 1.0], [0.05, 0.3], 0.5)
    assert config.model.encoder == "vit_large_patch14_224"
    assert (config.stages["di"].epochs, config.data.batch) == (100, 512)


def test_dira_on_dinov2_has_the_figures_of_both() -> None:
    both, large = composed("experiment=dira_dinov2"), composed("experiment=dinov2_vitb14")
    assert both.method["weights"] == {"di": 1.0, "re": 10.0, "ad": 0.001} and both.method["base"] == large.method
    for part in ("data", "model", "views", "optim", "adversary"):
        assert getattr(both, part) == getattr(large, part)
    base, half = large.stages["dinov2"], large.stages["dinov2"].epochs / 2
    assert {name: (stage.terms, stage.epochs) for name, stage in both.stages.items() if stage.epochs} == {
        "di": (base.terms, base.epochs), "dir": ([*base.terms, "re"], half), "dira": ([*base.terms, "re", "ad"], half),
    }  # fmt: skip


def test_dinov2_of_volumes_has_3dinos_figures() -> None:
    """Their default configuration: 125,000 steps of 4 · 128; a rate of 2e-3 at 1,024, by the root of the batch."""
    config, plain = composed("experiment=dino_vit3d"), composed("experiment=dinov2_vits14")
    assert config.method == plain.method and config.data.batch == 4 * 128
    optim, (globals_, locals_) = config.optim, config.views["crops"]
    rate = optim.optimizer["lr"]
    assert (rate, rate * optim.end) == pytest.approx((2e-3 * (512 / 1024) ** 0.5, 1e-6), rel=0.03)
    assert (optim.weight_decay_end, optim.layer_decay, optim.clip) == (0.4, 0.9, 3.0)
    stage = config.stages["dinov2"]
    assert stage.epochs * (70434 + 27815 + 566) == pytest.approx(125000 * 512, rel=1e-3)
    assert optim.warmup_epochs / stage.epochs == pytest.approx(10 / 100)
    assert (config.data.size, globals_["count"], locals_["count"], locals_["size"]) == ([96] * 3, 2, 8, [48] * 3)
    assert config.views["corruptions"]["mask"] == {
        "_target_": "PatchMask", "patch": 8, "share": [0.2, 0.75], "p": 0.5,
    }  # fmt: skip


def test_runs_of_before_dinos_keys_have_the_same_identity() -> None:
    """Keys that are null say nothing, to a run that is resumed and to those that are compared."""
    now = OmegaConf.to_container(compose("pretrain", ["data.shards=none", "experiment=dira_moco"]))
    assert isinstance(now, dict) and now["model"]["encoder"] == "resnet50"
    before = {**now, "model": {**now["model"]}, "optim": {**now["optim"]}}
    del before["model"]["arguments"]
    for key in ("weight_decay_end", "layer_decay", "patch_factor"):
        del before["optim"][key]
    free = execution("pretrain")
    assert differences(before, now, free) == [] and seedless(before, free) == seedless(now, free)  # type: ignore[arg-type]


def test_pcrl_has_its_papers_figures_and_one_stage() -> None:
    config = composed("experiment=pcrl")
    assert (config.data.size, config.data.batch, config.model.encoder) == (224, 256, "resnet18")
    assert config.model.decoder_channels == [256, 128, 64, 32, 16]
    assert (config.model.bn_groups, config.model.zero_init_residual) == (4, False)
    assert {k: v for k, v in config.method.items() if k not in ("_target_", "weights")} == {
        "queue": 16384, "dim": 128, "temperature": 0.2, "momentum": 0.99, "batch_norm": False, "alpha": 1.0,
        "attention": "channel", "target_scale": 1.0, "shuffle": "blocks", "transform": "all", "mixture": True,
    }  # fmt: skip
    assert config.method["weights"] == {"di": 0.5, "re": pytest.approx(NORMALISED / 2, rel=1e-3)}
    sgd = {"_target_": "torch.optim.SGD", "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
    assert config.optim.optimizer == sgd
    assert (config.optim.schedule, config.optim.warmup_epochs, config.optim.end) == ("cosine_epoch", 0, 0)
    assert (config.optim.reference_batch, config.optim.one_dimensional) == (None, {})
    [(name, stage)] = [pair for pair in config.stages.items() if pair[1].epochs]
    assert (name, stage.terms, stage.epochs, stage.patience, stage.batch) == ("pcrl", ["di", "re"], 240, 30, None)


def test_pcrls_views_are_the_released_codes() -> None:
    views = composed("experiment=pcrl").views
    shown = {key: views[key] for key in ("count", "scale", "flip", "rotation", "orientations", "target_flip")}
    assert shown == {
        "count": 2, "scale": [0.2, 1.0], "flip": 0.5, "rotation": 10, "orientations": 2, "target_flip": "with_input",
    }  # fmt: skip
    parts = {name: {k: v for k, v in part.items() if k != "_target_"} for name, part in views.items() if name in DAMAGE}
    assert parts == DAMAGE


def test_c2l_has_its_released_codes_figures() -> None:
    config, pcrl = composed("experiment=c2l"), composed("experiment=pcrl")
    assert (config.data.size, config.data.batch, config.model.encoder) == (224, 128, "resnet18")
    assert config.model.bn_groups == 4
    assert config.method == {
        "_target_": "C2L", "queue": 16384, "dim": 128, "temperature": 0.07, "momentum": 0.999, "batch_norm": False,
        "alpha": 1.0, "shuffle": "blocks",
    }  # fmt: skip
    assert config.optim.optimizer == pcrl.optim.optimizer | {"lr": 0.03}
    assert (config.optim.schedule, config.optim.step_epochs, config.optim.factor) == ("step", [60, 80, 100], 0.1)
    trained = {name: (stage.terms, stage.patience) for name, stage in config.stages.items() if stage.epochs == 120}
    assert trained == {"di": (["di"], None)}
    assert config.views | {"blur": 0, "orientations": 2} == pcrl.views | {"blur": 0}
    assert config.views["blur"]["p"] == 0 and method_class(config.method).corrupted  # cut out, without a restoration
    assert _differences("preset=released", "c2l") == {
        "precision": ("auto", "fp32"), "method.shuffle": ("blocks", "batch"),
    }  # fmt: skip


def test_pcrl_on_volumes_has_its_papers_figures() -> None:
    """An epoch of theirs has sixteen pairs of a scan, ours one."""
    config, plain = composed("experiment=pcrl3d"), composed("experiment=pcrl")
    assert (config.data.size, config.data.batch, config.model.bn_groups, config.optim) == (CUBE, 32, 4, plain.optim)
    assert (config.data.spacing, config.data.range) == (1.0, [-1000, 1000])
    assert config.method == plain.method | {"weights": {"di": 0.5, "re": 0.5}, "bounded": True}
    [stage] = [stage for stage in config.stages.values() if stage.epochs]
    assert (stage.terms, stage.epochs, stage.patience) == (["di", "re"], 16 * 240, 16 * 30)
    pairs = {key: config.views[key] for key in ("iou", "same_size", "crop_border", "orientations")}
    assert pairs == {"iou": 0.2, "same_size": True, "crop_border": [15, 70, 70], "orientations": 2}
    assert {*map(tuple, config.views["extents"])} == SIZES | {(56, 112, 112)}


def test_models_genesis_as_released_never_mirrors_depth() -> None:
    """The authors' loop, for many at once: an axis of [channel, x, y, z] is drawn from 0 to 2 up to three times."""
    rng, count = np.random.default_rng(0), 40000
    times = (rng.random((count, 3)) < 0.4).cumprod(1)  # the first draw of 0.4 or more ends the loop
    axes = np.eye(4)[rng.integers(0, 3, (count, 3))]
    _, x, y, z = ((times[..., None] * axes).sum(1) % 2).mean(0)
    assert z == 0
    assert _differences("preset=released", "models_genesis") == {
        "views.flip": (0.5, [0.0, pytest.approx(y, abs=0.01), pytest.approx(x, abs=0.01)])
    }


def test_a_preset_is_of_the_methods_that_have_it() -> None:
    for method in ("mae", "simsiam"):
        with pytest.raises(
            UserError, match=f"preset=released has no settings for method={method}, but for c2l, dino, "
        ):
            composed(f"experiment={method}", "preset=released")


# Of the authors' code: optimizer, schedule, the batch, the size of a crop, epochs; the method's settings and the mask.
# An epoch of Models Genesis has 32 cubes of a scan, of TransVW 59, ours one crop.
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 0.0}
SGD, NO_MASK = "torch.optim.SGD", (None, None)
MASKED = {"norm_target": False, "loss": "mse", "blocks": 2}
RESTORERS: dict[str, tuple[Any, ...]] = {
    "models_genesis": (
        {"_target_": SGD, "lr": 1.0, "momentum": 0.9, "weight_decay": 0.0}, ("step", 32 * 40, 0.5, 0, None), 6, CUBE,
        {"models_genesis": (["re"], 32 * 400, 32 * 50)}, {}, NO_MASK,
    ),
    "models_genesis2d": (
        {"_target_": SGD, "lr": 1.0, "momentum": 0.9, "weight_decay": 0.0}, ("step", 40, 0.5, 0, None), 256, 224,
        {"models_genesis": (["re"], 400, 50)}, {}, NO_MASK,
    ),
    "mae3d": (
        {"_target_": SGD, "lr": 0.01, "momentum": 0.99, "weight_decay": 3e-5, "nesterov": True},
        ("cosine", 50, 0.5, 0, 12), 8, [160] * 3, {"mae": (["re"], 17.5, None)},
        MASKED | {"masking": "dense"}, (16, 0.75),
    ),
    "mae_vit3d": (
        {"_target_": "torch.optim.AdamW", "lr": 3e-4, "betas": [0.9, 0.98], "weight_decay": 0.05},
        ("cosine", 50, 0.5, 17.5 * 50 / 1000, 1), 8, [160] * 3, {"mae": (["re"], 17.5, None)},
        MASKED | {"masking": "drop"}, (8, 0.75),
    ),
    "mae": (
        {"_target_": "timm.optim.Lamb", "lr": 2e-4, "betas": [0.9, 0.95], "weight_decay": 0.04},
        ("cosine", 50, 0.5, 40, 5), 256, 224, {"mae": (["re"], 1600, None)},
        MASKED | {"masking": "sparse", "norm_target": True}, (32, 0.6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("experiment", RESTORERS)
def test_restorers_have_their_authors_figures(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    optimizer, schedule, batch, size, stages, settings, mask = RESTORERS[experiment]
    optim, corruption = config.optim, config.views.get("corruptions", {}).get("mask", {})
    assert optim.optimizer == optimizer
    assert (optim.schedule, optim.step_epochs, optim.factor, optim.warmup_epochs, optim.clip) == schedule
    assert (config.data.batch, config.data.size) == (batch, size)
    trained = {name: stage for name, stage in config.stages.items() if stage.epochs}
    assert {name: (stage.terms, stage.epochs, stage.patience) for name, stage in trained.items()} == stages
    assert {key: value for key, value in config.method.items() if key != "_target_"} == settings
    assert (corruption.get("block"), corruption.get("share")) == mask


# Gidaris et al., ICLR 2018, sec. 3.2, and their code; OpenMMLab's Doersch et al.; Taleb et al.'s code: optimizer,
# schedule, batch, size, epochs; what is drawn for the method.
PRETEXTS: dict[str, tuple[Any, ...]] = {
    "rotation": (
        {"_target_": SGD, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}, ("step", 10, 0.1, 0),
        192, 224, 30, {},
    ),
    "rotation3d": (
        ADAM | {"lr": 1e-4}, ("constant", 50, 0.5, 0), 4, [128] * 3, 1000, {"turn": {}},
    ),
    "relative_position": (
        {"_target_": SGD, "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4}, ("step", [30, 50], 0.1, 5), 512, 416, 70,
        {"patches": {"side": 96, "gap": 48, "jitter": 2 * 7}},
    ),
    "relative_position3d": (
        ADAM | {"lr": 1e-4}, ("constant", 50, 0.5, 0), 32, [128] * 3, 1000,
        {"patches": {"side": 128 // 3 - 3, "gap": 3, "jitter": 3}},
    ),
    "cpc3d": (
        ADAM | {"lr": 1e-4}, ("constant", 50, 0.5, 0), 32, [128] * 3, 1000,
        {"patches": {"blocks": 4, "keep": 7 / 8, "flip": 0.5}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("experiment", PRETEXTS)
def test_pretexts_have_their_authors_figures(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    optimizer, schedule, batch, size, epochs, drawn = PRETEXTS[experiment]
    optim, corruptions = config.optim, config.views.get("corruptions", {})
    assert optim.optimizer == optimizer
    assert (optim.schedule, optim.step_epochs, optim.factor, optim.warmup_epochs) == schedule
    assert (config.data.batch, config.data.size, config.model.bn_groups) == (batch, size, 1)
    trained = {name: (stage.terms, stage.epochs) for name, stage in config.stages.items() if stage.epochs}
    assert trained == {"di": (["di"], epochs)}
    assert {name: {k: v for k, v in part.items() if k != "_target_"} for name, part in corruptions.items()} == drawn


ONLY: dict[str, dict[str, float]] = {  # what is done to a view of Models Genesis, and how often
    "autoencoder": {}, "inpainting": {"inpaint": 1.0},
    "autoencoder3d": {}, "inpainting3d": {"inpaint": 1.0}, "outpainting3d": {"outpaint": 1.0},
    "local_shuffling3d": {"shuffle": 1.0}, "nonlinear3d": {"bezier": 1.0}, "patch_shuffling3d": {"swap": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("experiment", ONLY)
def test_ablations_of_models_genesis_differ_by_what_is_done_to_a_view(experiment: str) -> None:
    whole = "models_genesis" if experiment.endswith("3d") else "models_genesis2d"
    changed = _differences(f"experiment={experiment}", whole)
    assert {key for key in changed if not key.startswith("views.corruptions")} == {"run"}
    parts = composed(f"experiment={experiment}").views["corruptions"] or {}
    chances = {name: part["p"] for name, part in parts.items() if name != "painting"}
    chances |= parts.get("painting", {"p": {}})["p"]
    assert {name: p for name, p in chances.items() if p} == ONLY[experiment]


def test_dira_on_volumes_has_the_figures_of_the_papers() -> None:
    config = composed("experiment=dira_moco3d")
    assert (config.data.size, config.data.batch, config.method["base"]["queue"]) == (CUBE, 32, 16384)
    assert config.method["weights"] == {"di": 1.0, "re": 100.0, "ad": 0.001}
    assert config.optim.optimizer == {"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 0.0}
    assert [stage.epochs for stage in config.stages.values()] == [59 * 50, 59 * 50, 59 * 100]
    assert {*map(tuple, config.views["extents"])} == SIZES | {(56, 112, 112)}
    assert (config.views["iou"], config.views["same_size"]) == (0.2, True)


NADAM = {"_target_": "torch.optim.NAdam", "betas": [0.5, 0.999]}
ORDER = {"_target_": "ShuffleBlocks", "permutations": 1000}
# What is drawn for the base, after how many of their epochs the rate is halved, and the rate.
PRETEXTS_3D: dict[str, tuple[Any, ...]] = {
    "dira_jigsaw": ({"order": ORDER | {"margin": 3}}, 32, 1e-4),
    "dira_rubiks_cube": (
        {"turn": {"_target_": "TurnBlocks", "blocks": 2, "turns": "half"}, "order": ORDER | {"margin": 5}}, 10, 1e-3,
    ),
    "dira_rotation3d": ({"turn": {"_target_": "Turn"}}, 32, 1e-4),
}  # fmt: skip


@pytest.mark.parametrize("experiment", PRETEXTS_3D)
def test_dira_on_pretexts_of_volumes_has_its_scripts_figures(experiment: str) -> None:
    """Nadam for both networks, weights 1, 100 and 1, a penalty of 10, halved rates; 32 cubes a scan."""
    config = composed(f"experiment={experiment}")
    drawn, halved, rate = PRETEXTS_3D[experiment]
    nadam = NADAM | {"lr": rate}
    assert (config.data.size, config.data.batch, config.model.bn_groups) == ([64] * 3, 16, 1)
    assert config.method["weights"] == {"di": 1.0, "re": 100.0, "ad": 1.0}
    assert config.optim.optimizer == nadam | {"weight_decay": 0.0} and config.optim.discriminator == nadam
    assert (config.adversary.loss, config.adversary.penalty) == ("wgan_gp", 10)
    assert (config.optim.schedule, config.optim.step_epochs, config.optim.factor) == ("step", 32 * halved, 0.5)
    stages = [(stage.terms, stage.epochs, stage.patience) for stage in config.stages.values()]
    terms = ["di"], ["di", "re"], ["di", "re", "ad"]
    assert stages == [(each, 10 * 32 * halved, 32 * 40) for each in terms]
    assert config.views["corruptions"] == drawn and config.views["flip"] == 0


def test_rubiks_cube_pp_has_what_pcrl_says_of_it() -> None:
    config, pcrl = composed("experiment=rubiks_cube_pp"), composed("experiment=pcrl3d")
    for key in ("size", "batch", "spacing", "pad"):
        assert getattr(config.data, key) == getattr(pcrl.data, key)
    assert (config.optim.optimizer, config.optim.schedule) == (pcrl.optim.optimizer, pcrl.optim.schedule)
    (stage,) = (stage for stage in config.stages.values() if stage.epochs)
    assert (stage.terms, stage.epochs, stage.patience) == (["re", "ad"], 16 * 240, 16 * 30)
    turn = config.views["corruptions"]["turn"]
    assert [n // count for n, count in zip(CUBE, turn["blocks"], strict=True)] == [16, 16, 16]


ONE_OF = {"shuffle": 0.25, "bezier": 0.25, "inpaint": 0.25, "outpaint": 0.25}
WHOLE = {"count": 1, "extents": [], "flip": 0.0}  # cubes; no mirroring


def test_transvw_has_its_codes_figures() -> None:
    """Batches of 64, the rate halved every 40 epochs, at most 50 without a lower loss; an epoch is all cubes."""
    config = composed("experiment=transvw")
    assert (config.data.size, config.data.batch, config.model.bn_groups) == (CUBE, 64, 1)
    assert config.method["base"] | {"_target_": ""} == {
        "_target_": "", "label": "word", "classes": 44, "classifier": "pytorch",
    }  # fmt: skip
    assert (config.method["weights"]["di"], config.method["weights"]["re"]) == (0.01, 1.0)
    assert config.method["restoration"] == "mse" and config.optim.optimizer == ADAM
    assert (config.optim.schedule, config.optim.step_epochs, config.optim.factor) == ("step", 40, 0.5)
    trained = {name: (stage.terms, stage.patience) for name, stage in config.stages.items() if stage.epochs}
    assert trained == {"dir": (["di", "re"], 50)}


def test_semantic_genesis_is_transvw_by_another_name() -> None:
    assert _differences("experiment=semantic_genesis", "transvw").keys() == {"run"}


def test_semantic_genesis_of_images_is_transvw_on_pcrls_network() -> None:
    config = composed("experiment=semantic_genesis2d")  # and whole patches, deformed in proportion
    changed = _differences("experiment=semantic_genesis2d", "transvw")
    elastic = {f"views.corruptions.elastic.{key}" for key in ("alpha", "sigma")}
    ours = {"run", "data.size", "data.batch", "method.base.classes", "views.scale", "views.ratio", *elastic}
    assert {key for key in changed if not key.startswith("model.")} == ours
    assert (config.data.size, config.data.batch, config.model.encoder) == (224, 256, "resnet18")
    assert config.method["base"]["classes"] == 100 and config.views["scale"] == config.views["ratio"] == [1, 1]
    assert config.views["corruptions"]["elastic"]["sigma"] / 224 == 8 / 64


@pytest.mark.parametrize("experiment", ["transvw", "dira_transvw"])
def test_transvws_cubes_are_deformed_as_in_its_code(experiment: str) -> None:
    views = composed(f"experiment={experiment}").views
    elastic, other = views["corruptions"].values()
    assert {key: views[key] for key in WHOLE} == WHOLE
    assert {key: value for key, value in elastic.items() if key != "_target_"} == {"p": 1, "alpha": 991, "sigma": 8}
    assert other["p"] == ONE_OF and other["of"]["shuffle"]["blocks"] == 5
    assert all(part["p"] == 0 for name, part in views.items() if name in (*DAMAGE, "blur"))


def test_dira_on_transvw_has_its_papers_figures() -> None:
    """Lambda 1, 100 and 1, Adam at 1e-3 for all three networks, 200 epochs in batches of 8, one stage upon another."""
    config = composed("experiment=dira_transvw")
    assert (config.data.size, config.data.batch, config.model.bn_groups) == (CUBE, 8, 1)
    assert config.method["weights"] == {"di": 1.0, "re": 100.0, "ad": 1.0}
    assert (config.method["restoration"], config.method["base"]["classifier"]) == ("mse", "keras")
    assert config.method["base"]["classes"] == 44
    assert (config.adversary.loss, config.adversary.penalty) == ("wgan_gp", 100)
    assert config.optim.optimizer == ADAM
    assert config.optim.discriminator == {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999]}
    stages = [(stage.terms, stage.epochs) for stage in config.stages.values()]
    assert [terms for terms, _ in stages] == [["di"], ["di", "re"], ["di", "re", "ad"]]
    assert sum(epochs for _, epochs in stages) == 200


def _differences(preset: str, experiment: str = "dira_moco") -> dict[str, tuple[Any, Any]]:
    base = f"experiment={experiment}"
    plain = dict(_flat(base))
    changed = dict(_flat(preset) if preset.startswith("experiment=") else _flat(base, preset))
    keys = dict.fromkeys([*plain, *changed])
    pairs = {key: (plain.get(key, MISSING), changed.get(key, MISSING)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@cache
def _flat(*overrides: str) -> list[tuple[str, Any]]:
    def walk(node: Any, prefix: str) -> list[tuple[str, Any]]:
        if not isinstance(node, dict):
            return [(prefix, node)]
        return [pair for key, value in node.items() for pair in walk(value, f"{prefix}.{key}" if prefix else key)]

    return walk(OmegaConf.to_container(recipe(*overrides)), "")


# Of each method, base, network and adversary one; the others differ in figures.
QUICK = {
    "c2l", "cpc3d", "dino", "dino_vit3d", "dira_barlow", "dira_byol", "dira_dinov2", "dira_jigsaw", "dira_moco",
    "dira_moco3d", "dira_rotation3d", "dira_rubiks_cube", "dira_transvw", "dinov2_vits14", "lejepa", "mae", "mae_vit3d",
    "mae3d", "models_genesis", "pcrl", "phantom", "relative_position", "rubiks_cube_pp", "simsiam",
    "vicreg",
}  # fmt: skip
RUNS: list[Any] = [pytest.param(name, None, marks=() if name in QUICK else pytest.mark.system) for name in EXPERIMENTS]
# Each preset with the method that has a queue, which its batches must fit, and with another; all pairs: full counts.
SHOWN = [("dira_moco", "paper"), ("pcrl", "released"), ("dira_transvw", "released")]
ALONE = [("dira_moco", "released"), ("dira_byol", "paper"), ("dira_barlow", "released"), ("pcrl", "paper")]
ALONE += [("c2l", "released")]
WITH_PRESETS = [name for name in EXPERIMENTS if name.startswith("dira_") and name not in (*PRETEXTS_3D, "dira_dinov2")]
PAIRS = [(name, preset) for name in WITH_PRESETS for preset in PRESETS]
PAIRS += [(name, preset) for name in ("pcrl", "small_pcrl", "pcrl3d") for preset in PRESETS]
RUNS += [*SHOWN, *(pytest.param(*pair, marks=pytest.mark.system) for pair in ALONE)]
RUNS += [pytest.param(*pair, marks=pytest.mark.torture) for pair in PAIRS if pair not in (*SHOWN, *ALONE)]


NARROW = {
    "TimmUNet": "model.encoder=test_resnet",
    "UNet3D": "model.width=0.0625",
    "ResEnc": "model.features=[4,4,4,4,4,4]",
    "ViT3D": "model.embed_dim=72",
}


@pytest.mark.parametrize(("experiment", "preset"), RUNS)
def test_every_recipe_can_be_trained(experiment: str, preset: str | None) -> None:
    """All checks of all its stages, on a narrow network: batches, BatchNorm groups, queue, optimizer, schedule."""
    chosen = [f"preset={preset}"] if preset else []
    cfg = deepcopy(recipe(f"experiment={experiment}", *chosen))
    if cfg.model.get("encoder", "").startswith("vit"):
        cfg.model.arguments = {**(cfg.model.arguments or {}), "depth": 4, "embed_dim": 32, "num_heads": 2}
    else:
        cfg.merge_with_dotlist([NARROW[cfg.model["_target_"]]])
    head = cfg.method.get("base", cfg.method)
    for width in {"dim", "hidden", "bottleneck", "prototypes"} & set(head):
        head[width] = 8
    blueprint = PretrainBlueprint(cfg)
    blueprint.try_stages(blueprint.networks())
