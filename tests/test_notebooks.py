"""The notebooks: each is run from its first cell to its last, at a smaller size, and what it shows is looked at."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from needs import need_extra
from notebook_outputs import NOTEBOOKS, code, digest, read, run
from PIL import Image

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
MOST = 300_000  # bytes of a notebook with its outputs


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_is_valid_and_shows_what_its_code_made(name: str) -> None:
    """By nbformat 4.5's schema; short enough to be read. If not: ``python tests/notebook_outputs.py`` runs it anew."""
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size <= MOST
    assert notebook["metadata"]["outputs_of"] == digest(notebook), "the outputs are of other code"
    cells = notebook["cells"]
    ids = [cell["id"] for cell in cells]
    assert 10 <= len(cells) <= 20 and len(ids) == len({*ids}) and all(re.fullmatch("[a-z0-9-]{1,64}", id) for id in ids)
    ran, pictures = 0, []
    for cell in cells:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            ran += 1
            assert cell.keys() == keys | {"execution_count", "outputs"} and cell["execution_count"] == ran
            data = [output["data"] for output in cell["outputs"]]
            pictures += [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]
        else:
            assert cell["cell_type"] == "markdown" and cell.keys() == keys
            for link in re.findall(r"\]\(([^)#:]+)[)#]", "".join(cell["source"])):
                assert (NOTEBOOKS / link).is_file(), link
    assert [cell["metadata"] for cell in cells if cell["metadata"]] == [{"tags": ["parameters"]}]
    assert len(pictures) >= 4
    assert all(np.asarray(Image.open(io.BytesIO(one)).convert("L"), float).std() > 10 for one in pictures)


def test_jupyter_runs_what_the_tests_run(tmp_path: Path) -> None:
    """With what the extra brings: `jupyter execute`, which docs/notebooks and install.md name."""
    need_extra("notebooks")
    from nbclient import execute
    from nbformat import v4

    notebook = read("radiographs")
    name, source = code(notebook)[0]
    small = v4.new_notebook(cells=[v4.new_code_cell(source, id=name), v4.new_code_cell("str(out)")])
    execute(small, cwd=str(tmp_path), kernel_name=notebook["metadata"]["kernelspec"]["name"])
    assert small.cells[1].outputs[0]["data"]["text/plain"] == repr("out/notebooks/radiographs")


@pytest.mark.system
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs_and_shows_what_it_says(name: str, tmp_path: Path) -> None:
    """Less than a minute of a core each: drawing phantoms, imports, and some dozen steps."""
    cells = code(read(name))
    assert cells[0][0] == "parameters"
    cells.insert(1, ("smaller", SMALLER[name]))
    shown = run(cells, tmp_path, threads="1")

    pictures = {path.stem: np.asarray(Image.open(path).convert("L"), float) for path in shown.glob("*.png")}
    images = {"images"} & {cell for cell, _ in cells}
    assert pictures.keys() == {"views", "curves", "restored", "predict"} | images
    assert all(picture.std() > 10 for picture in pictures.values()), "a picture has one colour"

    out = tmp_path / "out" / "notebooks" / name
    for part, split, loss in ("run", "train", "loss/re"), ("lungs", "val", "loss"):
        rows = [json.loads(line) for line in (out / part / "metrics.jsonl").read_text().splitlines()]
        losses = [row[loss] for row in rows if row["split"] == split and loss in row]
        assert losses[-1] < losses[0], f"{part}: {loss} did not fall: {losses}"
    assert (out / "run" / "report.html").is_file()
    masks = sorted((out / "predictions" / "masks").rglob("*.*"))
    assert masks
