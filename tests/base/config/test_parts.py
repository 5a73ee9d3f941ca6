"""Options that are nodes of a file are chosen as those with files of their own, also from a folder of one's own."""

from pathlib import Path

import pytest

from dira_scale.base.config.compose import compose
from dira_scale.base.config.parts import PARTS
from dira_scale.base.errors import UserError

SHARDS = "data.shards=any"


def test_a_preset_of_ones_own_has_parts_and_ours_a_part_of_ones_own(tmp_path: Path) -> None:
    for name, content in {
        "preset/mine": f"precision: fp32\n{PARTS}:\n  _all: {{seed: 3}}\n  moco: {{defaults: [_all_mine], steps: 5}}\n",
        "_preset_of/dira_dino_paper": "seed: 4\n",
        "preset/paper": f"{PARTS}:\n  dira_moco: {{seed: 5}}\n  moco:\n",  # the name of ours, which Hydra reads first
    }.items():
        (file := tmp_path / f"{name}.yaml").parent.mkdir(exist_ok=True)
        file.write_text(f"# @package _global_\n{content}")
    own = ["--config-dir", str(tmp_path), SHARDS]
    config = compose("pretrain", [*own, "method=moco", "preset=mine", "steps=6"])
    assert (config.precision, config.seed, config.steps, PARTS in config) == ("fp32", 3, 6, False)
    with pytest.raises(UserError, match=r"preset=mine has no settings for method=byol, but for moco: leave"):
        compose("pretrain", [*own, "method=byol", "preset=mine"])
    assert compose("pretrain", [*own, "method=dira_dino", "preset=paper"]).seed == 4
    ours = [SHARDS, "method=dira_moco", "preset=paper"]
    assert compose("pretrain", ["--config-dir", str(tmp_path), *ours]) == compose("pretrain", ours)
    with pytest.raises(UserError, match="preset=paper has no settings for method=dira_dino, but for dira_barlow, "):
        compose("pretrain", [SHARDS, "method=dira_dino", "preset=paper"])


def test_a_small_option_has_the_meanings_of_its_file_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compose("plan_finetune", ["task=brats", "--help"])
    text = capsys.readouterr().out
    assert "  task=  one of brats, chestxray14, chexpert, cityscapes, jsrt, jsrt_nodule, labels, lidc, " in text
    assert "task.decoder=pretrained" in text and "only the encoder is; linear: " in text
    with pytest.raises(UserError, match="no task named 'brat'; did you mean 'brats'"):
        compose("finetune", ["task=brat"])
