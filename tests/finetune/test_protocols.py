"""Named tasks are their datasets'; presets have the figures of their golden files, each with its source."""

import re
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from dira_scale.archive.sources import chestxray14, chexpert, cityscapes, jsrt, luna16, nlm_tuberculosis
from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import folder, small_options
from dira_scale.base.config.keys import leaves
from dira_scale.base.errors import UserError
from dira_scale.finetune import network as of_run
from dira_scale.finetune.description import describe
from dira_scale.train.runs.description import FILE

GOLDEN = Path(__file__).parent / "golden"
PAIRS = sorted((file.parent.name, file.stem) for file in GOLDEN.glob("*/*.yaml"))
TASKS = sorted({*small_options("finetune")["task"], *(f.stem for f in (folder("configs") / "task").glob("*.yaml"))})
# What a protocol decides; not where and how a run computes, which weights and patients it is given, what it writes.
DECIDED = re.compile(
    r"precision|normalise|(task|optim|stages|validate|evaluate)\."
    r"(?!choose|chosen|norm_passes|volumes|windows|layer_|head_|span|weight_decay_end|patch_factor).*"
    r"|views\.(?!.*_target_|channel_dropout|grey|jitter\.(?:saturation|hue)).*"
    r"|data\.(batch|crops|size|remainder|val_split|test_split|fraction_from)"
    r"|model\.(_target_|encoder|decoder_channels|bn_groups|zero_init_residual)"
)
OF_VOLUMES = re.compile(r"channels|data\.(spacing|range|pad)|model\.(norm|up|width)")  # beside these
CITED = re.compile(r"\S+\.(py|md):\d+|ours: |not used|(DiRA|PCRL|MoCo), (CVPR|ICCV) 20\d\d|encoders/resnet.py: ")
OURS = "images_small", "volumes_small"  # no paper's protocol, for any task
KNOWN = "btl_v1, btl_v2, dira3d, fcn, images_small, pcrl, pcrl3d, volumes_small"


@lru_cache  # nobody changes it
def composed(*words: str) -> Any:
    return compose("finetune", ["init=random", "data.shards=none", *words])


@pytest.mark.parametrize(("preset", "task"), PAIRS)
def test_every_field_of_a_preset_is_that_of_its_golden_file(preset: str, task: str) -> None:
    golden = yaml.safe_load((GOLDEN / preset / f"{task}.yaml").read_text())
    config = composed(f"preset={preset}", f"task={task}")
    volumes = config.model._target_ == "UNet3D"
    decided = [key for key, _ in leaves(config) if DECIDED.fullmatch(key) or (volumes and OF_VOLUMES.fullmatch(key))]
    actual = {key: value for key, value in leaves(config) if key in decided}
    if config.data.negatives is not None:
        actual["data.negatives"] = config.data.negatives
    flat = {
        key: value for name, (value, _) in golden["fields"].items() for key, value in _leaves_of(name, value).items()
    }
    assert actual == flat
    for name, (_, source) in golden["fields"].items():
        assert CITED.search(source), f"{name}: {source}"
    assert config.protocol.task == task and golden["code"] in config.protocol.source


def test_each_preset_knows_the_tasks_of_its_golden_files() -> None:
    known = {preset: composed(f"preset={preset}", f"task={task}").protocol.tasks for preset, task in PAIRS}
    assert sorted((preset, task) for preset, tasks in known.items() for task in tasks) == PAIRS
    presets = sorted(file.stem for file in (folder("configs") / "finetune" / "preset").glob("*.yaml"))
    assert sorted([*known, *OURS]) == presets


@pytest.mark.parametrize("preset", ["dira3d", "pcrl3d"])
def test_candidates_have_negatives_for_ten_epochs(preset: str) -> None:
    """The recipe's negatives of a positive suffice for others in the next epochs."""
    recipe = OmegaConf.load(folder("shards") / "recipe" / "luna16_candidates.yaml")
    assert recipe.negatives >= 10 * composed(f"preset={preset}", "task=luna16").data.negatives


def test_a_run_says_whose_settings_it_began_with() -> None:
    line = describe(_plain("preset=btl_v1", "task=chexpert")).training[0]
    assert line.startswith("preset `btl_v1` for `chexpert`: MR-HosseinzadehTaher/BenchmarkTransferLearning@5656fec, ")
    assert "a run has a seed, the code sets none; " in line and "the code shrinks them with the fraction" in line
    assert not any("preset" in line for line in describe(_plain("task=chexpert")).training)


def test_what_a_preset_keeps_is_not_advised_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PCRL's GroupNorm is its own, whatever ``init`` has; another width must be typed."""
    (tmp_path / FILE).touch()
    network = SimpleNamespace(architecture={"norm": "batch", "width": 0.5})
    monkeypatch.setattr(of_run, "read_description", lambda _: SimpleNamespace(network=network))
    config: Any = OmegaConf.to_object(composed("preset=pcrl3d", "task=lits"))
    config.init = str(tmp_path)
    assert of_run._differing(config) == ["model.width=0.5"]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["preset=btl_v3"], rf"no preset named 'btl_v3'; did you mean 'btl_v\d'\? There are: {KNOWN}$"),
        (["preset=paper"], f"no preset named 'paper'. There are: {KNOWN}$"),  # one of pretraining
        (["preset=pcrl", "task=siim_acr"], "has no settings for this task, but for chestxray14: choose one of these"),
        (["preset=btl_v1"], "preset=btl_v1 has no settings for this task, but for chestxray14, chexpert, shenzhen_tub"),
    ],
)
def test_a_preset_that_cannot_be_is_refused(words: list[str], printed: str) -> None:
    with pytest.raises(UserError, match=printed):
        composed(*words)


def test_typed_values_are_taken_before_the_presets() -> None:
    config = composed("preset=btl_v1", "task=siim_acr", "optim.optimizer.lr=5e-4", "views.warp.p=0")
    assert (config.optim.optimizer.lr, config.views.warp.p, config.views.tone.p) == (5e-4, 0, 0.3)


# Of each task of labels those that its dataset is sharded with.
LABELS = {
    "chestxray14": chestxray14.FINDINGS, "chexpert": chexpert.FINDINGS, "jsrt_nodule": jsrt.Jsrt.label_names[:1],
    "luna16": luna16.Luna16Candidates.label_names, "pe_cad": ("embolism",),
    "shenzhen_tuberculosis": nlm_tuberculosis.NlmTuberculosis.label_names,
}  # fmt: skip
# Of each task of masks with several values, the recipe's order of them; of regions their values.
CLASSES = {
    "cityscapes": [*cityscapes.IDS],
    "jsrt": ["lungs", "heart", "clavicles"], "phantom_ct": ["lungs", "nodule"], "phantom_abdomen": ["liver", "lesion"],
}  # fmt: skip
REGIONS = {"lits": {"liver": [1, 2]}, "brats": {"whole": [2, 1, 4]}}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_its_datasets(task: str) -> None:
    named = ["task.time=months", "task.event=died"] if task == "survival" else []  # it has no others
    node = composed(f"task={task}", *named).task
    labels, classes = node.get("labels"), node.get("classes")
    assert (None if labels is None else tuple(labels)) == (tuple(LABELS[task]) if task in LABELS else None)
    numbered = {name: value for value, name in enumerate(CLASSES.get(task, []), 1)}
    assert (classes or {}) == REGIONS.get(task, numbered)
    if task == "jsrt":
        assert [*compose("shard", ["recipe=jsrt", "recipe.images=none", "out=none"]).recipe.structures] == CLASSES[task]


def test_classes_and_crops_that_are_typed_replace_the_tasks_and_the_recipes() -> None:
    assert composed("task=lits", "task.classes={liver: 1, lesion: 2}").task.classes == {"liver": 1, "lesion": 2}
    assert composed("task.classes={tumour: [1, 4]}", "task=brats").task.classes == {"tumour": [1, 4]}
    words = ["recipe=lidc_nodules", "recipe.images=none", "out=none", "recipe.volume.crop={mask: 3}"]
    assert compose("shard", words).recipe.volume.crop == {"mask": 3}


def _plain(*words: str) -> Any:
    return OmegaConf.to_container(composed(*words))


def _leaves_of(name: str, value: Any) -> dict[str, Any]:
    """As ``leaves`` has them: of a mapping each entry."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {f"{name}.{key}": entry for key, entry in value.items()}
