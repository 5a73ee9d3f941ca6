"""Going on from published weights: what stays frozen, patches that are found again, warnings, the experiments."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import rows
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from toy_run import write
from train.methods.test_dinov2 import method
from train.models.test_dino_files import authors
from train.models.test_dino_files import rad_dino as of_transformers

from dira_scale import api
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.pretrain import main
from dira_scale.pretrain.diagnosis import Diagnosis
from dira_scale.pretrain.step import freeze_blocks
from dira_scale.train.engine.task import StagePosition
from dira_scale.train.methods.dino import found_again
from dira_scale.train.runs.choice import run_weights
from dira_scale.train.runs.description import read_description

SMALL = [
    "data.size=64", "data.batch=8", "data.workers=1", "method.prototypes=16", "method.hidden=16", "method.bottleneck=8",
    "method.frozen_encoder=0", "precision=fp32", "log_every=1", "views.corruptions.mask.patch=8", "frozen_blocks=1",
    "stages.continue.epochs=0.3", "stages.high.epochs=0.1", "stages.high.size=96", "stages.high.batch=4",
    "optim.warmup_epochs=0", "validate.batch=8", "validate.batches=1", "views.crops=[{count: 2, scale: [0.5, 1]},"
    "{count: 2, size: 32, corruptions: {}}, {count: 2, size: 128, same_as: 0}]",
]  # fmt: skip
NETWORK = [f"+model.arguments.{word}" for word in ("embed_dim=16", "depth=4", "num_heads=2", "patch_size=8")]


def test_the_first_blocks_and_what_is_before_them_keep_their_weights() -> None:
    model = method()
    freeze_blocks(model, 2)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and name.startswith("encoder.")}
    blocks = {name for name in frozen if ".blocks." in name}
    assert {name.split(".blocks.")[1][0] for name in blocks} == {"0", "1"}
    assert {name.removeprefix("encoder.model.") for name in frozen - blocks} == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    }  # fmt: skip
    assert model.mask_token.requires_grad
    with pytest.raises(UserError, match=r"^frozen_blocks=7: the encoder has 6 blocks"):
        freeze_blocks(model, 7)


class Pixels:
    """An encoder whose tokens are its patches."""

    patch = 4

    def tokens(self, view: Tensor, finer: bool) -> Any:
        rows = view.unfold(2, 4, 4).unfold(3, 4, 4)[:, 0].flatten(1, 2).flatten(2)
        return SimpleNamespace(patches=rows)


def test_patches_are_found_again_where_their_features_keep_them_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(60, 1, 32, 32, generator=generator)
    encoder: Any = Pixels()
    assert found_again(encoder, clean, 0.5 * clean) == 1
    noise = torch.rand(60, 1, 32, 32, generator=generator)
    assert found_again(encoder, clean, noise) < 0.1
    distorted = clean.clone()
    distorted[:, :, 16:, 20:] = noise[:, :, 16:, 20:]  # of the 6 x 6 patches that both show, 4 x 3
    assert found_again(encoder, clean, distorted).item() == pytest.approx(24 / 36, abs=0.03)


def test_a_fall_of_the_dense_figure_while_the_other_rises_is_warned_of_once() -> None:
    """Not of a run that begins at random, whose patches are told apart by their pixels at first."""

    def warnings(continues: bool, *held_out: tuple[float, float], experiment: str = "small_dinov2") -> list[str]:
        config = OmegaConf.to_object(compose("pretrain", ["data.shards=none", f"experiment={experiment}"]))
        diagnosis = Diagnosis(config, continues)  # type: ignore[arg-type]
        texts = []
        for patches, known in held_out:
            diagnosis.held_out({"patch_top1": patches, "health/knn_auc": known, "top1": 0.0})
            texts += diagnosis.warnings({}, StagePosition("continue", 10, 5))
        return texts

    (text,) = warnings(True, (0.7, 0.8), (0.72, 0.81), (0.6, 0.85), (0.5, 0.9))
    assert text.startswith(
        "dense features decay: of held-out patches 60% are found again, 72% were, while whole images"
    )
    assert "(0.810, now 0.850): add the term gram" in text
    (text,) = warnings(True, (0.72, 0.81), (0.6, 0.85), experiment="small_continue")
    assert "now 0.850): raise method.weights.gram, lower" in text
    assert not warnings(True, (0.7, 0.8), (0.6, 0.79))  # both fall
    assert not warnings(True, (0.7, 0.8), (0.68, 0.9)) and not warnings(False, (0.7, 0.8), (0.5, 0.9))


def rad_dino(folder: Path) -> Path:
    """RAD-DINO's file in miniature, with the card of its repository."""
    folder.mkdir()
    save_file(of_transformers(authors("DINOv2")), path := folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return path


def dinov3(folder: Path) -> Path:
    """The authors' tensors in miniature, under the name that they have."""
    folder.mkdir()
    torch.save(authors("DINOv3 with biases"), path := folder / "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth")
    return path


@pytest.mark.parametrize(
    ("experiment", "made", "licence", "normalise"),
    [
        ("continue_dinov3_vitb16", dinov3, "dinov3-license", "imagenet"),
        ("continue_rad_dino", rad_dino, "mit", "rad_dino"),
    ],
)
def test_the_experiments_go_on_from_files_as_published(
    experiment: str, made: Any, licence: str, normalise: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, run = made(tmp_path / "weights"), tmp_path / "run"
    words = [f"experiment={experiment}", *SMALL, *NETWORK, f"data.shards={write(tmp_path / 'toy')}", f"run={run}"]
    assert main([*words, f"model.weights={path}"]) == 0
    assert f"licence: {licence}" in "".join(capfd.readouterr())
    assert read_description(run).network.licence == licence
    trained, held_out = rows(run), rows(run, "val")
    assert {row["stage"] for row in trained} == {"continue", "high"} and "loss/gram" in trained[-1]
    assert all("patch_top1" in row for row in held_out) and held_out
    for composed in (
        compose("pretrain", ["data.shards=none", f"model.weights={run}"]),
        compose("finetune", ["data.shards=none", f"init={run}", "task=labels"]),
    ):
        assert composed.normalise == normalise
    teacher, taken = api.encoder(run).state_dict(), run_weights(run)  # with which others start, as probes do
    assert taken and all(torch.equal(taken.tensors[f"method.encoder.{name}"], teacher[name]) for name in teacher)


def test_an_anchor_at_random_weights_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=small_continue", f"data.shards={write(tmp_path / 'toy')}", f"run={tmp_path / 'run'}"]
    assert main([*words, "data.batch=8", "stages.high.batch=8"]) == 2
    assert "method.anchor=start: without model.weights the network starts at random" in capfd.readouterr().err
    assert main([*words, "method.anchor=teacher", "data.batch=8", "stages.high.batch=8"]) == 2
    assert "frozen_blocks=1: without model.weights the network starts at random" in capfd.readouterr().err
