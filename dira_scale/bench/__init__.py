"""``python -m dira_scale.bench NAME [--flags]``: the project's benchmarks, each with its own flags."""

import runpy
import sys
from collections.abc import Sequence

from dira_scale.base.errors import UserError, nearest, require
from dira_scale.base.termination import interrupted
from dira_scale.command import Command

COMMAND = Command("bench", "measure speed on this machine against baselines", gpu=True)
BENCHMARKS = {
    "loader": "images per second of our loaders, against other packages and against bare decoding",
    "loader3d": "crops per second of volumes, against nnU-Net's reader, MONAI, medrs and torchio, one core each",
    "step": "the training loop, against a bare PyTorch loop",
    "end_to_end": "pretraining from shards, against the slower of its loader and its steps alone",
    "feed": "a pretended device on a CPU: does a loader feed it, and leave its launches alone",
    "embed": "features of a dataset, against the slower of a bare forward pass and its loader alone",
    "shard": "speed of sharding, against bare decoding and encoding",
    "scaling": "a simulation of many GPUs",
    "segmentation": "Dice after equal minutes of training, against nnU-Net",
    "gpu": "on a CUDA GPU: where a step's time goes, speed against the authors' loop, what compiling gains",
}


def bench(words: Sequence[str]) -> None:
    """Run the benchmark named by the first word, with the other words as its command line."""
    if (name := words[0]) not in BENCHMARKS:
        choices = f"{nearest(name, BENCHMARKS) or '.'} There are: {', '.join(BENCHMARKS)}"
        raise UserError(f"no benchmark '{name}'{choices}")
    require("it needs", "train", "torch")
    from dira_scale.base.config.files import folder

    home = str(folder("benchmarks").parent)  # benchmarks import each other as benchmarks.NAME
    sys.path[:0] = [] if home in sys.path else [home]
    before, sys.argv = sys.argv, [f"dira_scale.bench {name}", *words[1:]]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    finally:
        sys.argv = before


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        usage = "usage: python -m dira_scale.bench NAME [--flags]     (NAME --help lists a benchmark's flags)\n"
        print(usage, *(f"  {name:<12} {line}" for name, line in BENCHMARKS.items()), sep="\n")
        return 0
    try:
        bench(words)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return interrupted("bench")
    return 0
