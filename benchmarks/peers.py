"""Packages that need an environment of their own: a process of its Python, which takes turns when asked.

    python -m benchmarks.peers FOLDER      makes FOLDER, for --peers FOLDER or DIRA_SCALE_PEERS

litdata and streaming for `bench loader`: streaming asks for an older NumPy than ours. nnU-Net, medrs and torchio for
`bench loader3d`: nnU-Net asks for an older timm. `bench segmentation` has nnU-Net from there, too.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.turns import Pace, Turn
from dira_scale.base.errors import UserError
from dira_scale.base.machine import torchvision_ops

VARIABLE = "DIRA_SCALE_PEERS"  # the environment's folder
HOW = f"python -m benchmarks.peers FOLDER makes the environment, --peers FOLDER or {VARIABLE} names it"
TORCH = "torch==2.13.0"
# torch alone and first: only its exact version is a CPU build everywhere.
PACKAGES = [
    [TORCH],
    [TORCH, "nnunetv2==2.8.1", "torchio==1.2.1", "medrs==0.2.0", "litdata==0.2.76", "mosaicml-streaming==0.13.0",
     "numpy<2.2", "pillow", "psutil"],
]  # fmt: skip
SECONDS = 1800  # bound on the wait for pip


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The benchmark's ``--peers``."""
    parser.add_argument(
        "--peers", type=Path, default=os.environ.get(VARIABLE), help=f"folder of the others' environment: {HOW}"
    )


def gather(offers: Mapping[str, Callable[[Any], list[Any]]], inputs: object) -> tuple[list[Any], dict[str, str]]:
    """All contenders of this environment; and the reasons of those that take no part."""
    result: list[Any] = []
    left_out: dict[str, str] = {}
    for name, offer in offers.items():
        try:
            result += offer(inputs)
        except UserError as error:
            left_out[name] = str(error)
    return result, left_out


class Peers:
    """Contenders of the other environment, in a process that reads nothing but in its turns.

    Attributes:
        turns: by name.
        sizes: bytes of the files that each one reads, by name.
        packages: their versions.

    Args:
        environment: its folder.
        kind: ``loader`` or ``loader3d``, whose ``peers.py`` has them.
        folder: what they are to read.
        settings: variables of the process.

    Raises UserError where there is no such environment, or its process fails.
    """

    def __init__(
        self, environment: Path | None, kind: str, folder: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        python = environment and environment / "bin" / "python"
        if python is None or not python.exists():
            raise UserError(f"no {python}: {HOW}" if python else HOW)
        self.log = folder / "peers.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python.absolute()), "-m", "benchmarks.peers_run", kind, str(folder)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=os.environ | {**(settings or {}), "PYTHONPATH": str(Path(__file__).parents[1])},
            )  # fmt: skip
        reported = self._answer()
        self.sizes: dict[str, int] = reported["sizes"]
        self.packages: dict[str, str] = reported["packages"]
        self.turns: dict[str, Turn] = {name: partial(self._turn, name) for name in self.sizes}

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)

    def _turn(self, name: str, seconds: float) -> Pace:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"name": name, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return Pace(*self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return json.loads(line)
        printed = self.log.read_text().strip().splitlines() or ["without a word"]
        raise UserError(f"the process of the other environment ended: {printed[-1]}")


def main() -> None:
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=SECONDS)
        for packages in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=SECONDS)
    # They import torchvision, whose library does not load beside a CPU build of torch.
    subprocess.run([python, torchvision_ops.__file__], check=True, timeout=SECONDS)
    print(f"{VARIABLE}={folder.absolute()}")


if __name__ == "__main__":
    main()
