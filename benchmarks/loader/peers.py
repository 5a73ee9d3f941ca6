"""litdata and MosaicML's streaming, measured in an environment of their own: streaming wants an older NumPy than ours.

    python -m benchmarks.loader.peers FOLDER      makes FOLDER/venv, measures, rewrites benchmarks/loader/peers.json

`bench loader` shows the figures with their date: each package's ratio to "files, PIL", which was measured beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loader.inputs import CASES, prepare, radiographs
from dira_scale.machine import torchvision_ops

PEERS = Path(__file__).with_suffix(".json")
# torch alone and first: only its exact version is a CPU build everywhere.
TORCH = "torch==2.13.0"
PACKAGES = [[TORCH], [TORCH, "litdata==0.2.76", "mosaicml-streaming==0.13.0", "numpy<2.2", "pillow", "psutil"]]
MEASURED = ["jpg8-1024", "jpg8-512"]
SECONDS = 1800  # bound on the wait


def make(folder: Path) -> Path:
    """The environment's Python; installs what is missing."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=SECONDS)
        for packages in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=SECONDS)
    # streaming imports torchvision, whose library does not load beside a CPU build of torch.
    subprocess.run([python, torchvision_ops.__file__], check=True, timeout=SECONDS)
    return python


def measure(python: Path, rounds: int) -> dict[str, Any]:
    """Images/s by case and name, round by round."""
    result = {}
    root = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals, images = radiographs(folder / "originals", 64)
        for case in MEASURED:
            inputs = prepare(CASES[case], originals, folder, len(os.sched_getaffinity(0)), 16)
            np.savez(folder / "crops.npz", boxes=inputs.boxes, flips=inputs.flips)
            words = [folder / f"{case}-files", folder / "crops.npz", inputs.workers, inputs.batch, rounds]
            command = [str(python), "-m", "benchmarks.loader.peers_run", *map(str, words)]
            environment = os.environ | {"PYTHONPATH": root}
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True
            )
            result[case] = json.loads(done.stdout.splitlines()[-1])
    return {"images": images, "cases": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the environment; kept")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    python = make(arguments.folder)
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))"
    names = ("torch", "litdata", "mosaicml-streaming", "numpy", "pillow")
    told = subprocess.run([python, "-c", code % (names,)], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    about = {"date": f"{date.today()}", "workers": len(os.sched_getaffinity(0)), "packages": json.loads(told.stdout)}
    PEERS.write_text(json.dumps(about | measure(python, arguments.rounds), indent=1) + "\n")
    print(PEERS)


if __name__ == "__main__":
    main()
