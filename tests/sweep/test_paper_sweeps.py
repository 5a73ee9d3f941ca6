"""The papers' tables as sweeps: each cell is trained, and each has its twin; a dry run refuses none of them."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from dira_scale.base.config.files import folder
from dira_scale.judge.pages.tables.papers import PaperTable, figures
from dira_scale.sweep.check import check_runs
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import Run

SWEEPS = ("dira_table1", "dira_table2", "dira_table3", "dira_table4", "pcrl_table2", "pcrl_table3", "pcrl_table4a")
SWEEPS += ("pcrl_table4b",)
OWN = ("ablation3d_small", "ablation_small", "dira2d_small", "dira3d_small", "few_labels", "transfer_small")
OWN += ("pcrl_table1", "words_small")


def read(name: str) -> tuple[Sweep, list[Run]]:
    content = yaml.safe_load((folder("slurm") / "sweep" / f"{name}.yaml").read_text())
    phases = {phase: Phase(**parts) for phase, parts in content["phases"].items()}
    sweep = Sweep(name=content["name"], phases=phases, tables=content.get("tables"))
    literal = {phase: {"recipe.images": "/images"} for phase, of in phases.items() if of.command == "shard"}
    return sweep, expand(sweep, Path("/sweep"), literal)


@pytest.mark.parametrize("name", SWEEPS)
def test_each_published_cell_is_trained_and_has_its_twin(name: str) -> None:
    sweep, runs = read(name)
    trained: dict[tuple[str, str, float], Counter[str]] = {}
    for run in (run for run in runs if run.command == "finetune"):
        init = str(run.varied.get(f"{run.phase}.init", "")).strip("{}")
        words = dict(word.split("=", 1) for word in run.words)
        location = run.phase, init, float(words.get("data.fraction", "1"))
        trained.setdefault(location, Counter())[words["init"] + words.get("seed", "0")] += 1
    for table in (PaperTable(**given) for given in sweep.tables):
        tasks, rows = {task: phase for phase, task in table.tasks.items()}, table.rows
        published = [key for key in figures() if key[:2] == (table.paper, table.table) and key[2] in tasks]
        for _, _, task, _, row, percent in published:
            starts = [start for start, its_row in rows.items() if its_row == row]
            phases = [phase for phase, its_task in table.tasks.items() if its_task == task]
            cells = [trained.get((phase, start, percent / 100)) for phase in phases for start in starts]
            counts = [len(cell) for cell in cells if cell]
            assert counts == [5], (task, row, percent)  # networks
        for phase, start, fraction in trained:
            assert phase not in table.tasks or start not in rows or len(trained[phase, "random", fraction]) == 5


def test_every_published_cell_is_of_a_sweep() -> None:
    """But for private data and for COCO, on which torchvision trains (docs/how-to/weights.md)."""
    placed = set()
    for file in (folder("slurm") / "sweep").glob("*_table*.yaml"):
        for table in (PaperTable(**given) for given in read(file.stem)[0].tables):
            placed |= {
                (table.paper, table.table, task, r) for task in table.tasks.values() for r in table.rows.values()
            }
    left_out = {(*key[:3], key[4]) for key in figures()} - placed
    assert {key[:2] for key in left_out} == {("DiRA", "Table 3"), ("PCRL", "Table 3")}
    assert {key[2] for key in left_out} == {"PE-CAD", "ImageNet-1k->COCO"}


@pytest.mark.system
@pytest.mark.parametrize(  # of the papers', one of images and one of volumes with all kinds of runs
    "name",
    ["dira_table4", "pcrl_table2", *OWN]
    + [
        pytest.param(name, marks=pytest.mark.torture)
        for name in ("dira_table3", "pcrl_table3", "pcrl_table4a", "pcrl_table4b")
    ],
)
def test_a_dry_run_refuses_none(name: str) -> None:
    _, runs = read(name)
    one_of_each = {(run.phase, str(run.varied.get(f"{run.phase}.init")) == "random"): run for run in runs}
    check_runs([*one_of_each.values()], runs)
