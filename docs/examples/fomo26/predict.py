"""FOMO26: one case, whose sequences are named by flags, through an export or a run; ../../how-to/challenges.md."""

import argparse
import csv
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from dira_scale import api

SEQUENCES = ("flair", "dwi", "adc", "t2s", "swi", "t1", "t2", "input")
TRAINED = Path(os.environ.get("TRAINED", Path(__file__).with_name("trained")))


def predicted(images: Path, work: Path) -> Path:
    return api.predict(TRAINED, work / "predicted", settings={"images": images, "names": "source"})


def number(images: Path, work: Path) -> str:
    """The probability of the first label, or the first number."""
    with (predicted(images, work) / "predictions.csv").open() as file:
        _, value, *_ = [*csv.reader(file)][1]
    return value


def mask(images: Path, work: Path) -> Path:
    """The mask, on the grid of the first sequence."""
    (file,) = (predicted(images, work) / "masks").rglob("*.nii.gz")
    return file


def embedding(images: Path, work: Path) -> np.ndarray:
    """The features of a run of `pretrain`, float32 [width]. `embed` reads datasets, so the case becomes one."""
    recipe = {"recipe.images": images, "recipe.modality": "MR", "recipe.secret": False, "workers": 1}
    api.shard(work / "shards", recipe="volumes", settings=recipe)
    folder = api.embed(work / "embedded", work / "shards", settings={"run": TRAINED, "data.workers": 1})
    values: np.ndarray = api.Embeddings.open(folder).values
    return values[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in SEQUENCES:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = vars(parser.parse_args())
    output: Path = given.pop("output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        images = work / "images"
        (images / "case").mkdir(parents=True)
        for name, path in given.items():
            if path is not None:  # named as the recipe's patterns; gzip or not is seen by the content
                shutil.copyfile(path, images / "case" / f"{name}.nii.gz")
        if output.suffix == ".txt":
            output.write_text(number(images, work))
        elif output.suffix == ".npy":
            np.save(output, embedding(images, work))
        else:
            shutil.copyfile(mask(images, work), output)


if __name__ == "__main__":
    try:
        main()
    except api.UserError as error:
        raise SystemExit(f"predict.py: {error}") from error
