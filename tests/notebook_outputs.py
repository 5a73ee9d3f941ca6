"""What the notebooks show: ``python tests/notebook_outputs.py`` runs docs/notebooks as they are, in minutes of a few
cores, and writes each cell's value and pictures into them; ``test_notebooks.py`` runs them at a smaller size.

A process of its own runs the cells, without a Jupyter kernel: they use nothing of IPython's.
"""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
# As Jupyter, it shows each cell's figures and the value of its last line: in FOLDER/NUMBER-CELL.png and .txt.
RUNNER = """
import ast, json, pathlib, pprint, sys
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
    elif value is not None:
        pathlib.Path(f"{shown}/{name}.txt").write_text(pprint.pformat(value, width=100))
    for number in plt.get_fignums():
        plt.figure(number).savefig(f"{shown}/{name}.png")
        plt.close(number)
"""


def read(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    return notebook


def code(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and sources of the cells that are run."""
    return [(cell["id"], "".join(cell["source"])) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def digest(notebook: dict[str, Any]) -> str:
    """Of the code that the outputs were made by."""
    return hashlib.sha256(json.dumps(code(notebook)).encode()).hexdigest()


def run(cells: list[tuple[str, str]], folder: Path, threads: str = "") -> Path:
    """Runs the cells in ``folder`` and returns the folder of what they showed."""
    shown = folder / "shown"
    shown.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": threads} if threads else {})
    command = [sys.executable, "-c", RUNNER, json.dumps(cells), str(shown)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    return shown


def outputs(shown: Path, cell: str, number: int) -> list[dict[str, Any]]:
    """One cell's, by nbformat 4.5. Pictures have 32 colours and at most 700 columns: a tenth of the bytes."""
    found: list[dict[str, Any]] = []
    if (text := shown / f"{cell}.txt").exists():
        data = {"text/plain": text.read_text().splitlines(keepends=True)}
        found.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": number})
    if (picture := shown / f"{cell}.png").exists():
        small, image = io.BytesIO(), Image.open(picture).convert("RGB")
        image.thumbnail((700, image.height))
        image.quantize(32).save(small, "png", optimize=True)
        data = {"image/png": base64.b64encode(small.getvalue()).decode(), "text/plain": ["<a picture>"]}
        found.append({"output_type": "display_data", "data": data, "metadata": {}})
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        notebook = read(name)
        with tempfile.TemporaryDirectory() as folder:
            shown = run(code(notebook), Path(folder))
            ran = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
            for number, cell in enumerate(ran, 1):
                cell |= {"execution_count": number, "outputs": outputs(shown, cell["id"], number)}
        notebook["metadata"]["outputs_of"] = digest(notebook)
        (NOTEBOOKS / f"{name}.ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
