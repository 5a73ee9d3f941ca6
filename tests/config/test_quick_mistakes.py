"""A mistake on the command line is named before torch is imported, which takes seconds."""

import subprocess
import sys

import pytest

from dira_scale.__main__ import VERBS
from dira_scale.cluster.subcommands import SUBCOMMANDS
from dira_scale.config.compose import check_words
from dira_scale.shard import VERBS as SHARD_VERBS

WITHOUT_TORCH = """
import sys
from importlib import import_module

for words in (line.split() for line in sys.stdin):
    code = import_module(f"dira_scale.{words[0]}").main([*words[1:], "nosuch=1"])
    assert code == 2, f"{words}: exit code {code}"
    assert "torch" not in sys.modules, f"{words} imported torch"
"""


def test_every_verb_refuses_an_unknown_key_without_torch() -> None:
    verbs = [verb for verb in VERBS if verb != "sweep"]
    lines = [*verbs, *(f"shard {verb}" for verb in SHARD_VERBS), *(f"sweep {verb}" for verb in SUBCOMMANDS)]
    lines += ["sweep sweep=ablation_small"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(lines)
    assert all("nosuch" in line for line in said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.bacth=3"], "pretrain: unknown key data.bacth; did you mean 'data.batch'?"),
        (["experiment=phantm"], "pretrain: no experiment named 'phantm'; did you mean 'phantom'?"),
        (["--hlp"], "pretrain: unknown flag --hlp; did you mean '--help'?"),
        (["steps"], "pretrain: expected KEY=VALUE, got 'steps'"),
        (["experiment=small"], "pretrain: data.shards must be given: data.shards=…"),
    ],
)
def test_what_is_no_key_is_named_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_words("pretrain", words) == 2
    told = capsys.readouterr()
    assert told.err.startswith(said) and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--cfg"],
        ["data.shards=a (b), c"],
        *(["data.shards=a", word] for word in ("data.batch=3", "data.batch=none", "~method.base")),
    ],
)
def test_values_are_left_to_compose(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whether a value fits is known to the schemas, some of which import torch."""
    assert check_words("pretrain", words) == 0
    assert capsys.readouterr() == ("", "")
