"""The notebooks: each is run from its first cell to its last, at a smaller size, and what it shows is looked at.

A process of its own runs the cells, without a Jupyter kernel: they use nothing of IPython's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
# What follows the cell of parameters: as papermill, which runs notebooks with other values, inserts it.
SMALLER = {
    "radiographs": """
phantoms |= {"recipe.patients": 12, "recipe.size": 64, "workers": 1}
quick = {"data.size": 32, "data.batch": 8, "data.workers": 1, "precision": "fp32", "model.encoder": "test_resnet"}
training = quick | {"epoch_factor": 0.5}
tuning = quick | {"stages.finetune.epochs": 6}
""",
    "volumes": """
phantoms |= {"recipe.patients": 5, "recipe.size": 32, "workers": 1}
splits["recipe.splits"] = {"train": 0.2, "val": 0.3, "test": 0.5}
quick = {"data.size": [16, 16, 16], "data.batch": 4, "data.workers": 1, "precision": "fp32"}
training = quick | {"model.width": 0.125, "views.extents": [[16, 24, 24]], "epoch_factor": 0.1}
tuning = quick | {"stages.finetune.epochs": 6}
""",
}
# Jupyter shows each cell's figures and the value of its last line; this saves them as SHOWN/NUMBER-CELL.png.
RUNNER = """
import ast, json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

cells, shown = json.loads(sys.argv[1]), sys.argv[2]
space = {"__name__": "__main__"}
for name, source in cells:
    *body, last = ast.parse(source, name).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), name, "exec"), space)
    value = eval(compile(ast.Expression(last.value), name, "eval"), space) if last else None
    if hasattr(value, "_repr_png_"):
        value.save(f"{shown}/{name}.png")
    for number in plt.get_fignums():
        plt.figure(number).savefig(f"{shown}/{name}.png")
        plt.close(number)
"""


def read(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    return notebook


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_is_valid_and_has_no_outputs(name: str) -> None:
    """By nbformat 4.5's schema; short enough to be read."""
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5) and notebook["metadata"]
    cells = notebook["cells"]
    ids = [cell["id"] for cell in cells]
    assert 10 <= len(cells) <= 20 and len(ids) == len({*ids}) and all(re.fullmatch("[a-z0-9-]{1,64}", id) for id in ids)
    for cell in cells:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell.keys() == keys | {"execution_count", "outputs"}
            assert cell["execution_count"] is None and cell["outputs"] == []
        else:
            assert cell["cell_type"] == "markdown" and cell.keys() == keys
            for link in re.findall(r"\]\(([^)#:]+)[)#]", "".join(cell["source"])):
                assert (NOTEBOOKS / link).is_file(), link
    assert [cell["metadata"] for cell in cells if cell["metadata"]] == [{"tags": ["parameters"]}]


@pytest.mark.system
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs_and_shows_what_it_says(name: str, tmp_path: Path) -> None:
    """Less than a minute of a core each: drawing phantoms, imports, and some dozen steps."""
    cells = [(cell["id"], "".join(cell["source"])) for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert cells[0][0] == "parameters"
    cells.insert(1, ("smaller", SMALLER[name]))
    shown = tmp_path / "shown"
    shown.mkdir()
    environment = os.environ | {"PYTHONPATH": str(NOTEBOOKS.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER, json.dumps(cells), str(shown)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"

    pictures = {path.stem: np.asarray(Image.open(path).convert("L"), float) for path in shown.glob("*.png")}
    images = {"images"} & {cell for cell, _ in cells}
    assert pictures.keys() == {"views", "curves", "restored", "predict"} | images
    assert all(picture.std() > 10 for picture in pictures.values()), "a picture has one colour"

    out = tmp_path / "out" / "notebooks" / name
    for run, split, loss in ("run", "train", "loss/re"), ("lungs", "val", "loss"):
        rows = [json.loads(line) for line in (out / run / "metrics.jsonl").read_text().splitlines()]
        losses = [row[loss] for row in rows if row["split"] == split and loss in row]
        assert losses[-1] < losses[0], f"{run}: {loss} did not fall: {losses}"
    assert (out / "run" / "report.html").is_file()
    masks = sorted((out / "predictions" / "masks").rglob("*.*"))
    assert masks
