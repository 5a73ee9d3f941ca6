"""``--help``: what matters first, the options of groups, then every key with type, bounds and meaning."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from shared_bases import composed

from dira_scale.base.config import compose as composing
from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import Root, folder
from dira_scale.base.config.help import of_file
from dira_scale.base.config.keys import leaves

FILES = sorted(file.stem for file in folder("configs").glob("*.yaml"))
COMMANDS = [name for name in FILES if Root.read(name).example]


@pytest.fixture(scope="module", autouse=True)
def of_one_base() -> Iterator[None]:
    """Only the text is looked at here: an example has the base of its command's help."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "_hydra", composed)
        yield


def helped(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        compose(command, [*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_says_what_every_key_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "pretrain")
    assert "data.batch=256 (a whole number of at least 1)\n      global, over all ranks" in text
    assert "  data.remainder=drop (drop or wrap)\n" in text
    assert "  run=out/runs/pretrain (a path)\n" in text
    assert "  stages: Which terms are trained, for how many epochs" in text
    experiments = "autoencoder, autoencoder3d, barlow, byol, c2l, continue_dinov3_vitb16, continue_rad_dino, cpc3d, "
    assert f"experiment=  one of {experiments}" in text
    assert "  preset=  one of paper, released\n" in text and "_preset_of" not in text
    keys = [line for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ") and "=" in line]
    assert len(keys) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_that_can_be_typed_and_the_first_keys_stand_before_the_others(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, start = helped(capsys, command), f"example: python -m dira_scale.{command.replace('_', ' ')} "
    assert all(text.count(f"\n  {key}=") == 2 for key in Root.read(command).first)
    assert not any(key in text for key in Root.KEYS)
    example = text.splitlines()[0]
    assert example.startswith(start)
    words = shlex.split(example.removeprefix(start))
    if command.startswith("sweep_"):  # as dira_scale/sweep does
        words = [re.sub("^sweep=", "name=", word) for word in words]
    assert words and compose(command, words)


@pytest.mark.parametrize("command", FILES)
def test_every_key_of_a_root_file_says_what_it_means(command: str) -> None:
    file = folder("configs") / f"{command}.yaml"
    content = yaml.safe_load(file.read_text())
    keys = {key: value for key, value in content.items() if key not in (*Root.KEYS, "defaults")}
    explained = of_file(file)
    unexplained = [key for key, _ in leaves(OmegaConf.create(keys)) if not any(map(key.startswith, explained))]
    assert unexplained == []


def test_comments_are_read_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("lr: 1  # of the base\n")
    (tmp_path / "mine.yaml").write_text(
        "# of the file\n\ndefaults:\n  - base@inner\n\n"
        "plain: 1  # behind\n"
        "# above,\n# twice\nnode:\n  text: 'a # b'  # behind quotes\n  list: [1,\n    2]  # behind brackets\n"
        "  flow: {a: 1, b: 2}  # of both\n"
        "block:  # behind a node\n  - 1\n"
        "none:\n"
    )
    assert of_file(tmp_path / "mine.yaml", "group.") == {
        "group.inner.lr": "of the base",
        "group.plain": "behind",
        "group.node": "above, twice",
        "group.node.text": "behind quotes",
        "group.node.list": "behind brackets",
        "group.node.flow": "of both",
        "group.block": "behind a node",
    }
