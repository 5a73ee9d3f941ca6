"""Configuration: the nearest key is named, types are checked, help says what a key is."""

import re
from pathlib import Path

import pytest
import yaml
from shared_bases import BASES, composed, hydra

from dira_scale.base.config.compose import _plain as plain
from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import folder
from dira_scale.base.errors import UserError

SHARDS = "data.shards=somewhere"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["data.bacth=3"], "unknown key data.bacth; did you mean 'data.batch'"),
        (["method.base.que=3"], "did you mean 'method.base.queue'"),
        (["experiment=phantm"], "no experiment named 'phantm'; did you mean 'phantom'"),
        (["data.batch=abc"], "data.batch=abc: expected a whole number of at least 1"),
        (["--hlp"], "unknown flag --hlp; did you mean '--help'"),
        (["--data.batch", "30"], "unknown flag --data.batch. Settings are KEY=VALUE: data.batch=30"),
        (["optim.lr=1"], "unknown key optim.lr; did you mean 'optim.discriminator.lr' or 'optim.optimizer.lr'"),
        (["lr=1"], "unknown key lr; did you mean 'optim.discriminator.lr' or 'optim.optimizer.lr'"),
        (["epochs=10"], "unknown key epochs; did you mean 'stages.di.epochs' or 'stages.dir.epochs'"),
        (["steps"], "expected KEY=VALUE, got 'steps'; --help lists the keys"),
        (["+colour=1"], "unknown key colour"),
        (["stages.di.patience=0"], r"stages\.di\.patience=0: expected a whole number of at least 1, or null"),
        (["stages.di.terms=[]"], r"stages\.di\.terms=\[\]: expected at least one loss term"),
        (["stages.di.epochs=-1"], r"stages\.di\.epochs=-1"),
        (["epoch_factor=nan"], "epoch_factor=nan"),
        (["optim.one_dimensional={weight_decay: 0}"], r"\+optim\.one_dimensional\.weight_decay=VALUE adds"),
        (["stages.di.epochs=0", "stages.dir.epochs=0", "stages.dira.epochs=0"], "nothing would be trained"),
        (["seed.foo=3"], r"unknown key seed\.foo \(seed has none"),
        (["data.shards=[~/x,~/y]"], "not valid in Hydra's grammar"),
        (["data.size=null"], r"data\.size=null: expected a whole number of at least 1, or a list of them"),
        (["--config-dir", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("pretrain", [SHARDS, *argv])


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("shard_verify", ["dataset=somewhere"], r"unknown key dataset \(there are: path, slice, workers\)"),
        (
            "shard",
            ["recipe=folder", "recipe.images=somewhere", "recipe.lables=here", "out=there"],
            r"unknown key recipe\.lables; did you mean 'recipe\.labels'",
        ),
        ("pretrain", [], r"data\.shards must be given"),
        ("shard", ["recipe=folder", "images=here", "out=there"], r"unknown key images; did you mean 'recipe\.images'"),
        ("shard", ["recipe=folder", "recipe.masks=here"], r"did you mean 'recipe\.columns\.mask'"),
        (
            "finetune",
            ["task.labels=Nodule,Edema"],
            r"type a list in brackets: 'task\.labels=\[Nodule,Edema\]'; type text",
        ),
        (
            "finetune",
            ["task.classes={left:", "1,", "right:", "2}"],
            "quote it all, with commas: 'task.classes={left: 1, …'",
        ),
        (
            "finetune",
            ["task=masks", "task.classes={1: left}"],
            "task.classes: '1' is no name: expected a mapping, NAME: VAL",
        ),
        ("finetune", ["experiment=small"], "unknown key experiment: finetune has none, but pretrain"),
        ("finetune", ["data.size", "64"], r"expected KEY=VALUE, got 'data\.size'; did you mean data\.size=64\?"),
        ("finetune", ["optim.optimizer.lr=0,001"], r"a comma separates .*; type 0\.001$"),
        (
            "finetune",
            ["preset=images_small", "preset=volumes_small"],
            r"preset=images_small and preset=volumes_small: only",
        ),
    ],
)
def test_few_keys_a_recipes_keys_and_required_keys_are_named(command: str, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(command, argv)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1, 2\n", r"mine\.yaml: not valid YAML: .*expected ',' or '\]'"),
        (b"seed: \0\n", r"mine\.yaml: not valid YAML: .*special characters"),
        (b"seed: \xff\n", "a file of --config-dir is not UTF-8"),
    ],
)
def test_what_is_no_yaml_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(b"# @package _global_\n" + content)
    with pytest.raises(UserError, match=message) as raised:
        compose("pretrain", ["--config-dir", str(tmp_path), "experiment=mine", SHARDS])
    assert "\n" not in str(raised.value)


PAGE = folder("configs").parent / "docs" / "how-to" / "training.md"


def test_the_files_of_training_md_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    names, contents = re.findall(r"`(my/\w+/\w+\.yaml)`", text), re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name, content in zip(names, contents, strict=True):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(content)
    commands = {
        command: words.split() for command, words in re.findall(r"dira_scale\.(\w+) (--config-dir .*?)(?:`|\n)", text)
    }
    trained = compose("pretrain", commands["pretrain"])
    given = yaml.safe_load(contents[0])
    assert (trained.run, trained.data.batch, trained.epoch_factor) == (given["run"], given["data"]["batch"], 46)
    assert trained.data.size == compose("pretrain", ["experiment=small", SHARDS]).data.size != 224
    assert compose("pretrain", [*commands["pretrain"], "data.batch=8"]).data.batch == 8
    assert compose("plan", commands["plan"]).data.batch == given["data"]["batch"]
    assert compose("shard", commands["shard"]).recipe.max_side == yaml.safe_load(contents[1])["max_side"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-dir", "my", "experiment=a"], "a file for experiment= must be '# @package _global_'"),
        (["--config-dir", "my", "run=r"], "--config-dir: its folder 'run' would hold choices of run="),
        (["experiment=my/experiment/a.yaml"], "chosen by --config-dir FOLDER and experiment=NAME"),
    ],
)
def test_what_an_own_file_lacks_is_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my/run").mkdir(parents=True)
    Path("my/experiment").mkdir()
    Path("my/experiment/a.yaml").write_text("data:\n  batch: 16\n")
    with pytest.raises(UserError, match=re.escape(message)):
        compose("pretrain", [*words, SHARDS])


@pytest.mark.parametrize(
    ("plan", "of", "words"),
    [
        ("plan", "pretrain", ["experiment=dira_moco", "preset=released"]),
        ("plan_finetune", "finetune", ["task=chestxray14", "preset=btl_v1", "init=random"]),
    ],
)
def test_a_preset_is_planned_as_it_is_trained(plan: str, of: str, words: list[str]) -> None:
    planned, trained = compose(plan, words), compose(of, [*words, "data.shards=d"])
    assert (planned.optim, planned.stages, planned.data.size) == (trained.optim, trained.stages, trained.data.size)


# The tests' shared compositions are what Hydra composes from all words at once.
ALIKE = (
    ["optim.optimizer.lr=0.5", "data.batch=64"],
    ["data.size=64", "optim.optimizer.lr=0.5", "optim.optimizer.lr=0.25"],  # the last one counts
    ["method={base: {queue: 1024}}", "method.base.queue=2048"],
    ["~optim.optimizer.weight_decay", "+optim.optimizer.nesterov=true"],
    ["data.shards=/a b", "checkpoint.folder=${run}/x", "seed=3"],
    ["experiment=small", "model.encoder=a", "data.split=${model.encoder}"],
    ["precision=fp32", "run=x", "parallel=fsdp2", "steps=7"],
    ["optim.optimizer.lr=0.3", "optim={optimizer:{lr:0.1}}"],  # a mapping and a value of the same key
)


@pytest.mark.parametrize("words", ALIKE)
def test_a_shared_base_gives_what_hydra_gives(words: list[str]) -> None:
    words = [SHARDS, *words]
    composed("pretrain", [*words, "log_every=3", "seed=4"], [])  # its values stay out of the base
    before = len(BASES)
    assert plain(composed("pretrain", words, [])) == plain(hydra("pretrain", words, [])) and len(BASES) == before
