"""The documentation is run: its links lead somewhere, its commands work, its list of dependencies is the project's.

A fenced ``bash`` block under ``<!-- run -->`` is run by ``make test-system``: one document's blocks in order in one
folder, at the sizes of ``SMALLER``, by forked processes, and README's in a shell, as a user types them.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from experiments_page import EXPERIMENTS, PAGE, filled
from harness import finish
from packaging.requirements import Requirement

from dira_scale import __version__
from dira_scale.commands import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"<!-- run(?:: system)? -->\n```bash\n(.*?)```", re.DOTALL)
SMALLER = {
    "recipe.patients=2 recipe.size=64 ": "recipe.patients=1 recipe.size=32 ",
    "recipe.patients=4 ": "recipe.patients=4 recipe.size=48 ",
    "recipe.patients=64": "recipe.patients=16 recipe.size=64",
    "patients64-size512": "patients16-size64",
    "data.size=64 model.encoder=resnet18 ": "data.size=32 model.encoder=test_resnet "
    "model.decoder_channels=[32,16,16,8,8] ",
    "epoch_factor=8.3 ": "",
    "epoch_factor=46 ": "",
    "experiment=phantom ": "experiment=phantom data.size=32 data.batch=8 epoch_factor=0.01 ",
    "dira_scale.sweep sweep=finetune_small": "dira_scale.sweep sweep=finetune_small shards.recipe.patients=24 "
    "shards.recipe.size=64 "
    "pretrain.epoch_factor=0.05 pretrain.data.batch=8 tune.seed=0 tune.data.fraction=1.0 "
    "tune.stages.finetune.epochs=1",
    "experiment=small_dinov2 ": "experiment=small_dinov2 data.size=32 data.batch=8 epoch_factor=0.01 ",
    "experiment=small_continue ": "experiment=small_continue data.size=32 stages.high.size=48 data.batch=8 "
    "stages.high.batch=8 epoch_factor=0.05 ",
    "experiment=small data.shards=out/shards/mine run=": "experiment=small data.size=32 data.batch=8 epoch_factor=0.01 "
    "model.encoder=test_resnet data.shards=out/shards/mine run=",
}
TYPED = "README"  # in a shell; takes 45 s: each command is a Python that imports torch


def commands(document: Path) -> str:
    """The commands of a document that are run."""
    return "".join(BLOCK.findall(document.read_text()))


def modules(line: str) -> list[str]:
    """The words after ``python`` of a line that runs a module and nothing else."""
    python, flag, *words = shlex.split(line)
    assert (python, flag) == ("python", "-m") and not set(words) & {"|", "||", "&&", ";", ">"}, line
    return [flag, *words]


def small(script: str) -> str:
    for text, smaller in SMALLER.items():
        script = script.replace(text, smaller)
    return script


@pytest.mark.system
@pytest.mark.timeout(1800)  # ten commands, beside three other tests on two slow cores
@pytest.mark.parametrize("document", [page for page in DOCUMENTS if commands(page)], ids=lambda path: path.stem)
def test_commands_work(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = small(commands(document))
    monkeypatch.chdir(tmp_path)
    if document.stem == TYPED:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1700)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    else:
        for line in script.splitlines():
            finish([sys.executable, *modules(line)])
    for run in re.findall(r"dira_scale\.report run=(\S+)", script):
        assert (tmp_path / run / "report.html").is_file()
        assert (tmp_path / run / "export" / "encoder.safetensors").is_file()


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *ROOT.glob("*/README.md")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text())
    local = [link for link in links if not re.match(r"https?:", link)]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_messages_that_the_troubleshooting_page_quotes_are_printed_by_the_code() -> None:
    """With ``…`` for what is filled in."""
    source = []
    for path in (ROOT / "dira_scale").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                source.append("".join(texts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                source.append(node.value)
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)  # the first cells that are all of a message
    assert len(quoted) > 20
    assert [text for text in quoted if not any(text in message for message in source)] == []


def test_every_page_is_linked_from_the_start_page_and_in_the_site() -> None:
    start, site = (ROOT / "docs" / "README.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in DOCUMENTS[1:]}
    assert {page for page in pages if f"({page})" not in start} == {"README.md"}
    assert {page for page in pages if f"{page}\n" not in site} == set()


def test_readmes_figures_are_those_of_the_evidence() -> None:
    """Means, bold where the 95 % interval of the difference from random weights is above 0; speeds."""

    def rows(page: str) -> list[list[str]]:
        return [line[2:-2].split(" | ") for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]

    evidence, task = {}, ""
    for name, *cells in rows("docs/evidence/learning.md"):
        task, name = (task, f"{task}, {name}") if re.fullmatch(r"\d+ %", name) else (name.partition(",")[0], name)
        evidence.setdefault(name.partition(" (")[0], cells)
    shown = {name.partition(" (")[0]: cells for name, *cells in rows("README.md")}
    common = shown.keys() & evidence.keys()
    assert len(common) == 5
    for name in common:
        means, gains = [cell.split()[0] for cell in evidence[name][:3]], evidence[name][3:5]
        ahead = [False, *(float(gain.partition("[")[2].partition(",")[0]) > 0 for gain in gains)]
        assert shown[name] == [f"**{mean}**" if bold else mean for mean, bold in zip(means, ahead, strict=True)], name
    speeds = {"two crops": "performance", "crops of 96³": "performance", "DiRA's step alone": "scale"}
    for start, page in (speeds | {"lesions' Dice": "learning"}).items():
        (cells,) = [cells for name, cells in shown.items() if name.startswith(start)]
        figures = re.findall(r"(?<!\S)\d[\d,.]*(?= ms| \(|;|$)", "; ".join(cells))
        known = " ".join(" ".join(row) for row in rows(f"docs/evidence/{page}.md")).split()
        assert len(figures) >= 2 and {*figures} <= {word.rstrip(";") for word in known}, start


@pytest.mark.system
def test_the_tables_of_experiments_are_what_is_composed() -> None:
    """If not: ``python tests/experiments_page.py`` writes them."""
    page = PAGE.read_text()
    assert filled(page) == page


def test_every_experiment_has_a_row() -> None:
    named = " ".join(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text(), re.MULTILINE))
    assert [path.stem for path in EXPERIMENTS.glob("*.yaml") if f"`{path.stem}`" not in named] == []


PAGES = {
    "shard": "sharding", "plan": "training", "doctor": "training", "bench": "training", "pretrain": "training",
    "sweep": "slurm", "export": "weights", "predict": "evaluate", "localize": "evaluate", "embed": "probe",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_page(command: str) -> None:
    """Which shows how it is called."""
    page = ROOT / "docs" / "how-to" / f"{PAGES.get(command, command)}.md"
    assert f"python -m dira_scale.{command}" in page.read_text()


def test_the_start_pages_way_is_of_commands_that_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From images to a table: composed, not run; each step has one command and one link."""
    monkeypatch.chdir(tmp_path)
    start = (ROOT / "docs" / "README.md").read_text()
    steps = re.findall(
        r"^\| \d+ \| .* \| `python -m dira_scale\.(.*)` \| \[[^|]*\]\(how-to/\S+\) \|$", start, re.MULTILINE
    )
    order = ["shard", "shard", "shard", "plan", "pretrain", "report", "probe", "finetune", "export", "sweep", "report"]
    assert [command for command in (step.split()[0] for step in steps) if command != "localize"] == order
    assert len(steps) == len(re.findall(r"^\| \d+ \|", start, re.MULTILINE))
    for step in steps:
        command, *words = shlex.split(step)
        with pytest.raises(SystemExit) as ended:
            import_module(f"dira_scale.{command}").main([*words, "--cfg"])
        assert not ended.value.code, step
        assert capsys.readouterr().out, step


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {requirement.name for requirement in map(Requirement, lines)} - {"dira_scale"}
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    explained = {name.partition("[")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert explained == declared


def test_make_lists_its_targets_and_can_plan_them() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {"pretrain", "pretrain3d", "test", "test-system", "test-rest", "torture", "gpu-check", "doctor", "docs"}
    assert targets <= set(re.findall(r"^make (\S+) ", listed, re.MULTILINE))
    planned = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r'pytest .*-m "system and ', planned)  # of every folder


def test_readme_shards_into_another_folder_than_make_pretrain() -> None:
    """Both may be typed one after the other: another recipe is refused in a folder that is filled."""
    made = re.findall(r"^ *shards=(\S+)", (ROOT / "setup" / "pretrain.sh").read_text(), re.MULTILINE)
    shown = re.findall(r"dira_scale\.shard .*out=(\S+)", (ROOT / "README.md").read_text())
    assert made and shown
    assert set(made) & set(shown) == set()


def test_readme_counts_the_methods() -> None:
    """PCRL has a file for images and one for volumes."""
    names = {path.stem for path in (ROOT / "configs" / "method").glob("*.yaml")}
    around = {name for name in names if name.startswith("dira_")}
    told = f"| methods | {len(names - around - {'pcrl3d'})}, and DiRA around {len(around)} of them |"
    assert told in (ROOT / "README.md").read_text(), told


def test_the_citation_is_of_this_version_and_has_what_the_format_asks_for() -> None:
    """Citation File Format 1.2.0: its required keys, and names of keys in lower case with hyphens."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    preferred, references = cited["preferred-citation"], cited["references"]
    assert cited["cff-version"] == "1.2.0" and {"authors", "message", "title"} <= cited.keys()
    for work in (preferred, *references):
        assert {"authors", "title", "type"} <= work.keys() and all(re.fullmatch("[a-z-]+", key) for key in work)
        assert all({"name"} == author.keys() or "family-names" in author for author in work["authors"])
    same = ("title", "type", "version", "date-released", "license", "authors")
    assert {key: cited[key] for key in same} == {key: preferred[key] for key in same}
    assert cited["version"] == __version__ and preferred["year"] == cited["date-released"].year
