"""``python -m dira_scale.bench NAME [--flags]``: the benchmarks that travel with the project, each with its flags."""

import runpy
import sys
from collections.abc import Sequence

from dira_scale.config.files import folder
from dira_scale.errors import UserError, nearest

BENCHMARKS = {
    "loader": "images a second of the CPU loader, beside bare decoding",
    "step": "the training loop, beside a bare PyTorch loop",
    "end_to_end": "pretraining from shards, beside the slower of its loader and its steps alone",
    "shard": "memory and speed of sharding, beside the plain limit of decoder and encoder",
    "scaling": "several processes here, and a simulation of many GPUs",
    "gpu": "on a machine with a CUDA GPU: is a step right, does it wait, how fast is it beside the authors' loop",
}


def bench(words: Sequence[str]) -> None:
    """Run the benchmark that the first word names, with the others as its command line."""
    name = words[0]
    if name not in BENCHMARKS:
        known = f"{nearest(name, BENCHMARKS) or '.'} There are: {', '.join(BENCHMARKS)}"
        raise UserError(f"no benchmark '{name}'{known}")
    home = str(folder("benchmarks").parent)  # they import one another as benchmarks.NAME
    if home not in sys.path:
        sys.path.insert(0, home)
    before, sys.argv = sys.argv, [f"dira_scale.bench {name}", *words[1:]]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    finally:
        sys.argv = before


def main(argv: Sequence[str] | None = None) -> int:
    """The verb."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m dira_scale.bench NAME [--flags]     (NAME --help lists a benchmark's flags)\n")
        print("\n".join(f"  {name:<10} {line}" for name, line in BENCHMARKS.items()))
        return 0
    try:
        bench(words)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130  # as of a shell's
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
