"""nnU-Net and torchio, which need an environment of their own: a process of its Python, which takes turns when asked.

    python -m benchmarks.loader3d.peers FOLDER      makes FOLDER, for --peers FOLDER or DIRA_SCALE_PEERS3D

nnunetv2 asks for an older timm than ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.loader.peers import SECONDS, TORCH
from benchmarks.loader.turns import Pace
from benchmarks.loader3d.turns import CropList
from dira_scale.errors import UserError
from dira_scale.machine import torchvision_ops

VARIABLE = "DIRA_SCALE_PEERS3D"  # the environment's folder
HOW = f"python -m benchmarks.loader3d.peers FOLDER makes the environment, --peers FOLDER or {VARIABLE} names it"
PACKAGES = [[TORCH], [TORCH, "nnunetv2==2.8.1", "torchio==1.2.1", "psutil"]]  # torch alone and first, as for peers.py
# What keep_freed_memory() of ours sets.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{2**30}", "MALLOC_TRIM_THRESHOLD_": f"{2**31 - 1}"}


class Peers:
    """Contenders of the other environment, in a process that reads nothing but in its turns.

    Attributes:
        sizes: bytes of the files that each one reads, by name.
        packages: their versions.

    Raises UserError where there is no such environment, or its process fails.
    """

    def __init__(self, environment: Path | None, folder: Path, crops: CropList) -> None:
        python = environment and environment / "bin" / "python"
        if python is None or not python.exists():
            raise UserError(f"no {python}: {HOW}" if python else HOW)
        drawn = folder / f"crops-{crops.name}.npz"
        crops.save(drawn)
        self.log = folder / f"peers-{crops.name}.log"
        words = ["-m", "benchmarks.loader3d.peers_run", str(folder), str(drawn)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python.absolute()), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | KEEP_FREED_MEMORY | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
        told = self._answer()
        self.sizes: dict[str, int] = told["sizes"]
        self.packages: dict[str, str] = told["packages"]

    def turn(self, name: str, seconds: float, cold: bool) -> Pace:
        """Raises OSError where the kernel keeps its files in memory."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"name": name, "seconds": seconds, "cold": cold}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "kept" in answer:
            raise OSError(answer["kept"])
        return Pace(*answer["pace"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self) -> Any:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return json.loads(line)
        said = self.log.read_text().strip().splitlines() or ["without a word"]
        raise UserError(f"the process of the other environment ended: {said[-1]}")


def main() -> None:
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=SECONDS)
        for packages in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=SECONDS)
    # torchvision's library does not load beside a CPU build of torch.
    subprocess.run([python, torchvision_ops.__file__], check=True, timeout=SECONDS)
    print(f"{VARIABLE}={folder.absolute()}")


if __name__ == "__main__":
    main()
