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
from dira_scale.train.runs.identity import differences, execution, run_name, seedless

EXPERIMENTS = sorted(f.stem for f in (folder("configs") / "experiment").glob("*.yaml"))
PRESETS = sorted(f.stem for f in (folder("configs") / "pretrain" / "preset").glob("*.yaml"))

# The papers' and their released code's figures, written down independently of configs/: those of the experiment that
# one is like, or else of EACH, and its own. Of "method" and "method.base" all settings; "trained" are the terms, epochs
# and patience of the stages that have epochs, "crops" are count, size, scale and chance of blur. Null: it is not set.
FIGURES = """
EACH: {data.size: 224, data.batch: 256, model.bn_groups: 1, optim.reference_batch: null, optim.one_dimensional: {},
  optim.schedule: cosine, optim.warmup_epochs: 0, optim.end: 0, optim.fixed_rate: [], optim.clip: null}
moco: {model.encoder: resnet50, model.bn_groups: 4, model.zero_init_residual: false, method: {dim: 128, queue: 65536,
  temperature: 0.2, momentum: 0.999, batch_norm: false, shuffle: blocks}, optim.optimizer: {_target_: torch.optim.SGD,
  lr: 0.03, weight_decay: 0.0001, momentum: 0.9}, optim.schedule: cosine_epoch, trained: {di: [[di], 800, 30]}}
simsiam: {model.encoder: resnet50, model.zero_init_residual: true, method: {dim: 2048, bottleneck: 512},
  optim.optimizer: {_target_: torch.optim.SGD, lr: 0.05, weight_decay: 0.0001, momentum: 0.9},
  optim.reference_batch: 256, optim.schedule: cosine_epoch, optim.fixed_rate: [predictor], trained: {di: [[di], 800,
  30]}}
barlow: {like: simsiam, method: {dim: 8192, off_diagonal: 0.0051, scale: 1},
  optim.optimizer: {_target_: timm.optim.Lars, lr: 0.2, weight_decay: 1e-6, momentum: 0.9, trust_coeff: 0.001},
  optim.one_dimensional: {lr: 0.0048, weight_decay: 0}, optim.schedule: cosine, optim.warmup_epochs: 10,
  optim.end: 0.001, optim.fixed_rate: [], trained: {di: [[di], 1000, 30]}}
byol: {like: simsiam, method: {hidden: 4096, dim: 256, momentum: 0.996}, optim.optimizer: {_target_: timm.optim.Lars,
  lr: 0.2, weight_decay: 1.5e-6, momentum: 0.9, trust_coeff: 0.001}, optim.one_dimensional: {weight_decay: 0},
  optim.schedule: cosine, optim.warmup_epochs: 10, optim.fixed_rate: [], trained: {di: [[di], 1000, 30]}}
vicreg: {like: barlow, method: {dim: 8192, invariance: 25, variance: 25, covariance: 1},
  optim.one_dimensional: {lr: 0.2, weight_decay: 0}}
simclr: {like: barlow, model.zero_init_residual: false, method: {dim: 128, temperature: 0.1},
  optim.optimizer: {_target_: timm.optim.Lars, lr: 0.3, weight_decay: 1e-6, momentum: 0.9, trust_coeff: 0.001},
  optim.one_dimensional: {lr: 0.3, weight_decay: 0}, optim.end: 0}
# SwAV: the released script for a batch of 256: of 400 epochs 15 have no queue, and one freezes prototypes.
swav: {model.encoder: resnet50, model.zero_init_residual: false, method: {prototypes: 3000, dim: 128, hidden: 2048,
  temperature: 0.1, epsilon: 0.05, queue: 3840, queue_start: 0.0375, frozen: 0.0025}, optim.reference_batch: 256,
  optim.optimizer: {_target_: timm.optim.Lars, lr: 0.6, weight_decay: 1e-6, momentum: 0.9, trust_coeff: 0.001},
  optim.end: 0.001, trained: {di: [[di], 400, null]}, views.blur.p: 0.5, crops: [[2, null, [0.14, 1], null], [6, 96,
  [0.05, 0.14], null]]}
# DINO: sec. 3.2, ViT-S/16, 300 epochs, of which the first has a frozen last layer; the rate ends at 1e-6.
dino: {model.encoder: vit_small_patch16_224, model.positions: dino, model.bn_groups: 4, method: {prototypes: 65536,
  hidden: 2048, bottleneck: 256, student_temperature: 0.1, teacher_temperature: 0.07, first_temperature: 0.04,
  warmup: 0.1, rises: null, momentum: 0.996, centring: softmax, centre_momentum: 0.9, frozen: 0.0033,
  frozen_encoder: null, batch_norm: false}, optim.optimizer: {_target_: torch.optim.AdamW, lr: 0.0005,
  weight_decay: 0.04}, optim.reference_batch: 256, optim.weight_decay_end: 0.4,
  optim.one_dimensional: {weight_decay: 0}, optim.clip: 3, optim.warmup_epochs: 10, optim.end: 0.002,
  optim.layer_decay: null, trained: {di: [[di], 300, null]}, views.jitter.p: 0.8, crops: [[1, null, [0.25, 1], 1], [1,
  null, [0.25, 1], 0.1], [10, 96, [0.05, 0.25], 0.5]]}
# DINOv2: the released code's defaults and its Sinkhorn-Knopp.
dinov2_vits14: {like: dino, data.batch: 1024, model.encoder: vit_small_patch14_dinov2, model.bn_groups: 1,
  method: {weights: {di: 1, ibot: 1, koleo: 0.1, gram: 2}, prototypes: 65536, hidden: 2048, bottleneck: 256,
  student_temperature: 0.1, teacher_temperature: 0.07, first_temperature: 0.04, warmup: 0.3, momentum: 0.992,
  centring: sinkhorn, centre_momentum: 0.9, frozen: 0.01, frozen_encoder: null, batch_norm: false, separate: true,
  anchor: null, anchor_every: null},
  optim.optimizer: {_target_: torch.optim.AdamW, lr: 0.004, weight_decay: 0.04}, optim.reference_batch: null,
  optim.end: 0.00025, optim.layer_decay: 0.9, optim.patch_factor: 0.2, trained: {dinov2: [[di, ibot, koleo], 100,
  null]}, views.corruptions.mask: {_target_: BlockwiseMask, patch: 14, share: [0.1, 0.5], p: 0.5}, crops: [[1, null,
  [0.32, 1], 1], [1, null, [0.32, 1], 0.1], [8, 98, [0.05, 0.32], 0.5]]}
# LeJEPA: the authors' code.
lejepa: {data.batch: 512, model.encoder: vit_large_patch14_224, method: {dim: 512, hidden: 2048, sigreg: 0.05,
  slices: 1024}, optim.optimizer: {_target_: torch.optim.AdamW, lr: 0.0005, weight_decay: 0.05},
  optim.warmup_epochs: 1, optim.end: 0.001, trained: {di: [[di], 100, null]}, views.blur.p: 0.5, crops: [[2, null,
  [0.3, 1], null], [8, 98, [0.05, 0.3], null]]}
dira_dinov2: {data.batch: 1024, method.weights: {di: 1, re: 10, ad: 0.001}, optim.one_dimensional: {weight_decay: 0},
  optim.warmup_epochs: 10, optim.end: 0.00025, optim.clip: 3, trained: {di: [[di, ibot, koleo], 100, null], dir: [[di,
  ibot, koleo, re], 50, null], dira: [[di, ibot, koleo, re, ad], 50, null]}}
# 3DINO's default configuration: 125,000 steps of 512 of its 98,815 volumes, a tenth of them warm-up; a rate of 2e-3 at
# a batch of 1,024, by the root of the batch, which ends at 1e-6.
dino_vit3d: {data.size: [96, 96, 96], data.batch: 512, optim.optimizer: {_target_: torch.optim.AdamW, lr: 0.0014,
  weight_decay: 0.04}, optim.end: 0.0007, optim.weight_decay_end: 0.4, optim.layer_decay: 0.9, optim.clip: 3,
  optim.warmup_epochs: 64.8, optim.one_dimensional: {weight_decay: 0}, trained: {dinov2: [[di, ibot, koleo], 648,
  null]}, views.corruptions.mask: {_target_: PatchMask, patch: 8, share: [0.2, 0.75], p: 0.5}, crops: [[2, null, null,
  null], [8, [48, 48, 48], null, null]]}
# PCRL's restoration loss is of images divided by ImageNet's deviations, ours of images in [0, 1]: 9.79 = 0.5 * 4.425^2.
pcrl: {model.encoder: resnet18, model.decoder_channels: [256, 128, 64, 32, 16], model.bn_groups: 4,
  model.zero_init_residual: false, method: {dim: 128, queue: 16384, temperature: 0.2, momentum: 0.99,
  batch_norm: false, shuffle: blocks, alpha: 1, attention: channel, transform: all, mixture: true, weights: {di: 0.5,
  re: 9.79}, target_scale: 1}, optim.optimizer: {_target_: torch.optim.SGD, lr: 0.001, weight_decay: 0.0001,
  momentum: 0.9}, optim.schedule: cosine_epoch, trained: {pcrl: [[di, re], 240, 30]}, views.count: 2,
  views.scale: [0.2, 1], views.flip: 0.5, views.rotation: 10, views.orientations: 2, views.target_flip: with_input,
  views.jitter: {_target_: Jitter, p: 1, brightness: 0.4, contrast: 0.4, saturation: 0, hue: 0},
  views.blur: {_target_: Blur, p: 0.5, sigma: [0.1, 2]}, views.cutout: {_target_: Cutout, p: 1, boxes: 3, side: [32,
  32], stop: 0}, views.inverse_cutout: {_target_: InverseCutout, p: 0}, views.shuffle: {_target_: Shuffle, p: 0}}
c2l: {like: pcrl, data.batch: 128, method: {dim: 128, queue: 16384, temperature: 0.07, momentum: 0.999,
  batch_norm: false, alpha: 1, shuffle: blocks}, optim.optimizer: {_target_: torch.optim.SGD, lr: 0.03,
  weight_decay: 0.0001, momentum: 0.9}, optim.schedule: step, optim.step_epochs: [60, 80, 100], optim.factor: 0.1,
  trained: {di: [[di], 120, null]}, views.orientations: 0, views.blur: {_target_: Blur, p: 0, sigma: [0.1, 2]}}
# An epoch of theirs has sixteen pairs of a scan, ours one.
pcrl3d: {data.size: [32, 64, 64], data.batch: 32, data.spacing: 1, data.range: [-1000, 1000], model.bn_groups: 4,
  method: {dim: 128, queue: 16384, temperature: 0.2, momentum: 0.99, batch_norm: false, shuffle: blocks, alpha: 1,
  attention: channel, transform: all, mixture: true, weights: {di: 0.5, re: 0.5}, target_scale: 1, bounded: true},
  optim.optimizer: {_target_: torch.optim.SGD, lr: 0.001, weight_decay: 0.0001, momentum: 0.9},
  optim.schedule: cosine_epoch, trained: {pcrl: [[di, re], 3840, 480]}, views.iou: 0.2, views.same_size: true,
  views.crop_border: [15, 70, 70], views.orientations: 2, views.extents: [[32, 64, 64], [48, 96, 96], [96, 96, 96],
  [16, 32, 32], [56, 112, 112]]}
# An epoch of Models Genesis has 32 cubes of a scan, of TransVW 59, ours one crop.
models_genesis: {data.size: [32, 64, 64], data.batch: 6, method: {}, optim.optimizer: {_target_: torch.optim.SGD,
  lr: 1, weight_decay: 0, momentum: 0.9}, optim.schedule: step, optim.step_epochs: 1280, optim.factor: 0.5,
  trained: {models_genesis: [[re], 12800, 1600]}, views.corruptions.mask: null}
models_genesis2d: {like: models_genesis, data.size: 224, data.batch: 256, model.bn_groups: 4, optim.step_epochs: 40,
  trained: {models_genesis: [[re], 400, 50]}}
mae3d: {data.size: [160, 160, 160], data.batch: 8, method: {masking: dense, norm_target: false, loss: mse, blocks: 2},
  optim.optimizer: {_target_: torch.optim.SGD, lr: 0.01, weight_decay: 3e-5, momentum: 0.99, nesterov: true},
  optim.step_epochs: 50, optim.factor: 0.5, optim.clip: 12, trained: {mae: [[re], 17.5, null]},
  views.corruptions.mask: {_target_: BlockMask, block: 16, share: 0.75}}
mae_vit3d: {like: mae3d, method: {masking: drop, norm_target: false, loss: mse, blocks: 2},
  optim.optimizer: {_target_: torch.optim.AdamW, lr: 0.0003, weight_decay: 0.05, betas: [0.9, 0.98]},
  optim.warmup_epochs: 0.875, optim.clip: 1, views.corruptions.mask: {_target_: BlockMask, block: 8, share: 0.75}}
mae: {method: {masking: sparse, norm_target: true, loss: mse, blocks: 2}, optim.optimizer: {_target_: timm.optim.Lamb,
  lr: 0.0002, weight_decay: 0.04, betas: [0.9, 0.95]}, optim.step_epochs: 50, optim.factor: 0.5,
  optim.warmup_epochs: 40, optim.clip: 5, optim.reference_batch: 256, optim.one_dimensional: {weight_decay: 0},
  optim.end: 0.001, trained: {mae: [[re], 1600, null]}, views.corruptions.mask: {_target_: BlockMask, block: 32,
  share: 0.6}}
# Gidaris et al., ICLR 2018, sec. 3.2, and their code; OpenMMLab's Doersch et al.; Taleb et al.'s code.
rotation: {data.batch: 192, optim.optimizer: {_target_: torch.optim.SGD, lr: 0.01, weight_decay: 0.0005,
  momentum: 0.9, nesterov: true}, optim.schedule: step, optim.step_epochs: 10, optim.factor: 0.1, trained: {di: [[di],
  30, null]}, views.corruptions: null}
rotation3d: {data.size: [128, 128, 128], data.batch: 4, optim.optimizer: {_target_: torch.optim.Adam, lr: 0.0001,
  weight_decay: 0}, optim.schedule: constant, optim.step_epochs: 50, optim.factor: 0.5, trained: {di: [[di], 1000,
  null]}, views.corruptions: {turn: {_target_: Turn}}}
relative_position: {like: rotation, data.size: 416, data.batch: 512, optim.optimizer: {_target_: torch.optim.SGD,
  lr: 0.2, weight_decay: 0.0001, momentum: 0.9}, optim.step_epochs: [30, 50], optim.warmup_epochs: 5,
  trained: {di: [[di], 70, null]}, views.corruptions: {patches: {_target_: PatchPair, side: 96, gap: 48, jitter: 14}}}
relative_position3d: {like: rotation3d, data.batch: 32, views.corruptions: {patches: {_target_: PatchPair, side: 39,
  gap: 3, jitter: 3}}}
cpc3d: {like: rotation3d, data.batch: 32, views.corruptions: {patches: {_target_: CropBlocks, blocks: 4, keep: 0.875,
  flip: 0.5}}}
# The papers' cubes and scales, and 59 of their epochs for each of ours.
dira_moco3d: {data.size: [32, 64, 64], data.batch: 32, model.bn_groups: 4, method.base.queue: 16384,
  method.weights: {di: 1, re: 100, ad: 0.001}, optim.optimizer: {_target_: torch.optim.Adam, lr: 0.001,
  weight_decay: 0}, optim.schedule: step, trained: {di: [[di], 2950, 1770], dir: [[di, re], 2950, 1770], dira: [[di,
  re, ad], 5900, 1770]}, views.extents: [[32, 64, 64], [48, 96, 96], [96, 96, 96], [16, 32, 32], [56, 112, 112]],
  views.iou: 0.2, views.same_size: true}
# Nadam for both networks, weights 1, 100 and 1, a penalty of 10, rates halved after some of their epochs of 32 cubes.
dira_jigsaw: {data.size: [64, 64, 64], data.batch: 16, method.weights: {di: 1, re: 100, ad: 1},
  optim.optimizer: {_target_: torch.optim.NAdam, lr: 0.0001, weight_decay: 0, betas: [0.5, 0.999]},
  optim.discriminator: {_target_: torch.optim.NAdam, lr: 0.0001, betas: [0.5, 0.999]}, optim.schedule: step,
  optim.step_epochs: 1024, optim.factor: 0.5, adversary.loss: wgan_gp, adversary.penalty: 10, trained: {di: [[di],
  10240, 1280], dir: [[di, re], 10240, 1280], dira: [[di, re, ad], 10240, 1280]},
  views.corruptions: {order: {_target_: ShuffleBlocks, permutations: 1000, file: null, margin: 3}}, views.flip: 0}
dira_rubiks_cube: {like: dira_jigsaw, optim.optimizer: {_target_: torch.optim.NAdam, lr: 0.001, weight_decay: 0,
  betas: [0.5, 0.999]}, optim.discriminator: {_target_: torch.optim.NAdam, lr: 0.001, betas: [0.5, 0.999]},
  optim.step_epochs: 320, trained: {di: [[di], 3200, 1280], dir: [[di, re], 3200, 1280], dira: [[di, re, ad], 3200,
  1280]}, views.corruptions: {turn: {_target_: TurnBlocks, blocks: 2, turns: half}, order: {_target_: ShuffleBlocks,
  permutations: 1000, file: null, margin: 5}}}
dira_rotation3d: {like: dira_jigsaw, views.corruptions: {turn: {_target_: Turn}}}
# As PCRL says: blocks of 16 voxels along each axis.
rubiks_cube_pp: {data.size: [32, 64, 64], data.batch: 32, data.spacing: 1, data.pad: true,
  optim.optimizer: {_target_: torch.optim.SGD, lr: 0.001, weight_decay: 0.0001, momentum: 0.9},
  optim.schedule: cosine_epoch, trained: {rubiks_cube_pp: [[re, ad], 3840, 480]},
  views.corruptions.turn: {_target_: TurnBlocks, blocks: [2, 4, 4], turns: quarter}}
# Batches of 64, the rate halved every 40 epochs, at most 50 without a lower loss; an epoch is all cubes, deformed.
transvw: {data.size: [32, 64, 64], data.batch: 64, method.base: {label: word, classes: 44, classifier: pytorch},
  method.weights: {di: 0.01, re: 1, ad: 1}, method.restoration: mse, optim.optimizer: {_target_: torch.optim.Adam,
  lr: 0.001, weight_decay: 0}, optim.schedule: step, optim.step_epochs: 40, optim.factor: 0.5, trained: {dir: [[di,
  re], 400, 50]}, views.count: 1, views.extents: [], views.flip: 0, views.corruptions: {elastic: {_target_: Elastic,
  p: 1, alpha: 991, sigma: 8}, other: {_target_: OneOf, p: {shuffle: 0.25, bezier: 0.25, inpaint: 0.25,
  outpaint: 0.25}, of: {shuffle: {_target_: LocalShuffle, p: 1, blocks: 5}, bezier: {_target_: Bezier, p: 1},
  inpaint: {_target_: Inpaint, boxes: 1, more: 1, fill: noise}, outpaint: {_target_: Outpaint, boxes: 1,
  fill: noise}}}}, views.jitter.p: 0, views.blur.p: 0, views.cutout.p: 0, views.inverse_cutout.p: 0,
  views.shuffle.p: 0}
# Lambda 1, 100 and 1, Adam at 1e-3 for all three networks, 200 epochs in batches of 8, one stage upon another.
dira_transvw: {like: transvw, data.batch: 8, method.weights: {di: 1, re: 100, ad: 1}, method.base: {label: word,
  classes: 44, classifier: keras}, optim.discriminator: {_target_: torch.optim.Adam, lr: 0.001, betas: [0.9, 0.999]},
  adversary.loss: wgan_gp, adversary.penalty: 100, trained: {di: [[di], 50, 30], dir: [[di, re], 50, 30], dira: [[di,
  re, ad], 100, 30]}}
JOINT: {method.weights: {di: 1, re: 10, ad: 0.001}, method.restoration: mse, method.restore: first,
  model.decoder_channels: [256, 128, 64, 32, 16], views.target_flip: with_input, adversary.loss: lsgan,
  optim.discriminator: {_target_: torch.optim.Adam, lr: 0.0002, betas: [0.5, 0.999]}}
"""
ROWS: dict[str, dict[str, Any]] = OmegaConf.to_container(OmegaConf.create(FIGURES))  # type: ignore[assignment]
BASES = ["moco", "simsiam", "barlow", "byol", "vicreg"]
CUBE = [32, 64, 64]
MISSING = object()


@cache
def recipe(*overrides: str) -> DictConfig:
    """Composed once for all tests, which change none."""
    return compose("pretrain", ["data.shards=somewhere", *overrides])


@cache
def composed(*overrides: str) -> Any:
    return OmegaConf.to_object(recipe(*overrides))


def figures(name: str) -> dict[str, Any]:
    row = dict(ROWS[name])
    like = row.pop("like", "EACH")
    return (dict(ROWS["EACH"]) if like == "EACH" else figures(like)) | row


def assert_figures(experiment: str, expected: dict[str, Any]) -> None:
    config: Any = OmegaConf.to_container(recipe(f"experiment={experiment}"))
    stages = {name: stage for name, stage in config["stages"].items() if stage["epochs"]}
    config["trained"] = {name: [each["terms"], each["epochs"], each["patience"]] for name, each in stages.items()}
    crops = config["views"].get("crops") or ()
    config["crops"] = [[*map(each.get, ("count", "size", "scale")), each.get("blur", {}).get("p")] for each in crops]
    found = {}
    for key in expected:
        node = config
        for part in key.split("."):
            node = (node or {}).get(part)
        found[key] = {k: v for k, v in node.items() if k != "_target_"} if key in ("method", "method.base") else node
    assert found == expected


@pytest.mark.parametrize("experiment", sorted({*ROWS} - {"EACH", "JOINT"}))
def test_a_recipe_has_its_authors_figures(experiment: str) -> None:
    assert_figures(experiment, figures(experiment))


@pytest.mark.parametrize("base", BASES)
def test_dira_adds_two_joint_stages_to_it(base: str) -> None:
    expected = figures(base) | ROWS["JOINT"]
    head = expected["method.base"] = dict(expected.pop("method"))
    joint = {"dir": [["di", "re"], 400, 30], "dira": [["di", "re", "ad"], 400, 30]}
    expected["trained"] = expected["trained"] | joint
    if base == "barlow":  # its loss is scaled, and the rate of what LARS does not adapt makes up for that
        head["scale"], expected["optim.one_dimensional"] = 0.024, {"lr": 0.2, "weight_decay": 0}
        assert 0.2 * head["scale"] == pytest.approx(0.0048)
    assert_figures(f"dira_{base}", expected)


@pytest.mark.parametrize(
    ("experiment", "other", "parts"),
    [
        ("dira_dinov2", "dinov2_vitb14", ["data", "model", "views", "optim", "adversary"]),
        ("dino_vit3d", "dinov2_vits14", ["method"]),
        ("pcrl3d", "pcrl", ["optim"]),
    ],
)
def test_recipes_share_parts(experiment: str, other: str, parts: list[str]) -> None:
    one, two = composed(f"experiment={experiment}"), composed(f"experiment={other}")
    assert [getattr(one, part) for part in parts] == [getattr(two, part) for part in parts]
    if experiment.startswith("dira_"):
        assert one.method["base"] == two.method


def test_what_the_released_code_does_otherwise() -> None:
    """DINOv2's ``GaussianBlur(p)`` is torchvision's ``RandomApply`` with 1 - p; DINO's temperature has 30 values."""
    released = composed("experiment=dinov2_vits14", "views=dinov2_released").views["crops"]
    said = composed("experiment=dinov2_vits14").views["crops"]
    for code, paper in zip(released, said, strict=True):
        assert code["blur"]["p"] == pytest.approx(1 - paper["blur"]["p"])
        assert {**code, "blur": None} == {**paper, "blur": None}
    assert _differences("preset=released", "dino") == {"method.rises": (None, 30)}
    of_c2l = {"precision": ("auto", "fp32"), "method.shuffle": ("blocks", "batch"), "normalise": (None, "imagenet")}
    assert _differences("preset=released", "c2l") == of_c2l
    of_rotation = {
        "precision": ("auto", "fp32"), "adversary.precision": ("auto", "fp32"), "data.spacing": (1, "stored"),
        "adversary.loss": ("wgan_gp", "wgan_gp_released"), "method.restoration": ("mse", "l1"),
        "method.base._target_": ("Rotation", "RotationReleased"), "model.up": ("transposed", "nearest"),
        "views.corruptions.turn.turns": (MISSING, "released"), "optim.optimizer.eps": (MISSING, 1e-7),
        "optim.discriminator.eps": (MISSING, 1e-7),
    }  # fmt: skip
    assert _differences("preset=released", "dira_rotation3d") == of_rotation
    assert method_class(composed("experiment=c2l").method).corrupted  # cut out, without a restoration


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


def test_permutations_of_a_file_count_by_their_content() -> None:
    """Not by its path; without one a run is that of before the key."""
    now: Any = OmegaConf.to_container(recipe("experiment=dira_jigsaw"))
    before, moved, free = deepcopy(now), deepcopy(now), execution("pretrain")
    assert before["views"]["corruptions"]["order"].pop("file") is None
    moved["views"]["corruptions"]["order"]["file"] = "elsewhere.npy"
    assert run_name(before, free) == run_name(now, free) == run_name(moved, free)
    other = moved | {"views_content": ["0f"]}
    assert differences(moved, other, free) == ["views_content: views.corruptions.order.file has other permutations"]


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
WITH_PRESETS = [
    name
    for name in EXPERIMENTS
    if name.startswith("dira_") and name not in ("dira_jigsaw", "dira_rubiks_cube", "dira_rotation3d", "dira_dinov2")
]
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
    if "teachers" in head:
        head.teachers = [{"weights": "random", "encoder": "test_resnet"}]
    blueprint = PretrainBlueprint(cfg)
    blueprint.try_stages(blueprint.networks())
