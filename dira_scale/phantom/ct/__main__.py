"""`python -m dira_scale.phantom.ct FOLDER --patients N --kind thorax`: make a folder of phantom CT volumes."""

import argparse
import sys
from pathlib import Path

from dira_scale.errors import UserError
from dira_scale.phantom.ct.dataset import FORMATS, generate
from dira_scale.phantom.ct.study import KINDS

RECIPES = {"thorax": "phantom_ct", "abdomen": "phantom_abdomen"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m dira_scale.phantom.ct", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--kind", default="thorax", help=" or ".join(KINDS))
    parser.add_argument("--format", default="dicom", help=", ".join(FORMATS))
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    asked = parser.parse_args(argv)
    try:
        folder = generate(asked.folder, asked.patients, asked.seed, asked.kind, asked.format, asked.size, asked.workers)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept: the same command goes on", file=sys.stderr)
        return 75
    recipe = RECIPES[asked.kind]
    command = f"python -m dira_scale.shard recipe={recipe} recipe.images={folder} out=out/shards/{recipe}"
    print(f"{asked.patients} patients in {folder}; next: {command}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
