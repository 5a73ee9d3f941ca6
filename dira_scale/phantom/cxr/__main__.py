"""`python -m dira_scale.phantom FOLDER --patients N --size S --seed K`: make a folder of phantom DICOM files."""

import argparse
import sys
from pathlib import Path

from dira_scale.errors import UserError
from dira_scale.phantom.cxr.dataset import generate
from dira_scale.phantom.cxr.findings import MIXTURES


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m dira_scale.phantom", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=64)
    parser.add_argument("--size", type=int, default=512, help="pixels on a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parser.add_argument("--findings", default="all", help=f"mixture of findings: {' or '.join(MIXTURES)}")
    asked = parser.parse_args(argv)
    try:
        folder = generate(asked.folder, asked.patients, asked.seed, asked.size, asked.workers, asked.findings)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept: the same command goes on", file=sys.stderr)
        return 75
    recipe = "phantom_cxr" if asked.findings == "all" else f"phantom_{asked.findings}"
    command = f"python -m dira_scale.shard recipe={recipe} recipe.images={folder} out=out/shards/{recipe}"
    print(f"{asked.patients} patients in {folder}; next: {command}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
