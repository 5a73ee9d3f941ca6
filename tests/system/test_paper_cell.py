"""A cell of a paper's table of volumes, on miniatures: from archives to the published figure beside ours."""

import sys
from pathlib import Path

import pytest
import yaml
from archive.sources.miniatures_3d import luna16
from finetune.miniatures import lits
from harness import finish

from dira_scale.base.config.files import folder

SECONDS = 900  # bound on the whole
PHASES = ("luna16", "genesis", "lits_data", "lits")
TINY = ["model.width=0.25", "data.workers=1", "parallel.threads=1"]


@pytest.mark.system
def test_a_cell_of_pcrls_table_of_volumes(tmp_path: Path) -> None:
    """Models Genesis on LUNA16, then livers, and random weights: a network of each, tiny and short."""
    sweep = yaml.safe_load((folder("slurm") / "sweep" / "pcrl_table4b.yaml").read_text())
    phases = {name: sweep["phases"][name] for name in PHASES}
    phases["genesis"]["seeds"] = 1
    starts = [{"init": "random", "seed": 0}, {"init": "{genesis}"}]
    phases["lits"] |= {"for_all": "genesis", "grid": {"data.fraction": [1.0]}, "list": starts}
    for phase in phases.values():
        phase.pop("slices", None), phase.pop("cluster", None), phase.pop("processes", None)
    (table,) = (table for table in sweep["tables"] if "lits" in table["tasks"])
    table |= {"tasks": {"lits": table["tasks"]["lits"]}}
    mine = tmp_path / "mine" / "sweep"
    mine.mkdir(parents=True)
    (mine / "cell.yaml").write_text(yaml.safe_dump({"name": "cell", "tables": [table], "phases": phases}))
    luna16(tmp_path / "luna16"), lits(tmp_path / "lits")
    words = ["--config-dir", f"{mine.parent}", "sweep=cell", f"folder={tmp_path / 'cell'}", "cluster.cpus_per_task=1"]
    words += [
        f"luna16.recipe.images={tmp_path / 'luna16'}",
        f"lits_data.recipe.images={tmp_path / 'lits'}",
        "lits_data.recipe.min_side=8",
    ]
    words += [
        f"genesis.{word}"
        for word in (
            *TINY,
            "data.size=[16,16,16]",
            "data.batch=2",
            "views.crop_border=[0,0,0]",
            "steps=2",
            "validate.every=1",
        )
    ]
    words += [
        f"lits.{word}"
        for word in (*TINY, "data.size=[16,32,32]", "data.batch=2", "validate.batch=2", "epoch_factor=0.004")
    ]
    finish([sys.executable, "-m", "dira_scale.sweep", *words], seconds=SECONDS)
    page = tmp_path / "page.html"
    finish([sys.executable, "-m", "dira_scale.report", f"sweep={tmp_path / 'cell'}", f"out={page}"])
    text = page.with_suffix(".md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "91.3" in rows["Models Genesis"] and "90.7" in rows["Train from scratch"]
    assert "n 1" in rows["Models Genesis"].replace("n=", "n ") and "Published and ours, %: Dice" in text
