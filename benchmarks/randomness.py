"""How far from a full shuffle orders are that keep neighbours together for the sake of whole shards.

    python -m dira_scale.bench randomness [--rows 1000000] [--batch 256]

Only the order is computed, no image is read: the same figures on every machine.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from dira_scale.data.order import Order

ROWS, SHARD, PATIENT = 1_000_000, 1000, 8  # images; of a shard; of a patient, one after another in the manifest
NEAR = 64  # batches in a row, within which a shard has to stay on the disk


@dataclass(frozen=True)
class Figures:
    """Of some batches of an order.

    Attributes:
        shards: that NEAR batches in a row touch, on average.
        relatives: share of a batch's images that have another image of their patient in the batch.
        spread: variance over batches of a class's share, divided by a full shuffle's, where all images of a shard are
            of one class (an archive sorted by site, say): 1 is as good as a full shuffle, the batch size the worst.
        drift: the same of the share over NEAR batches in a row.
    """

    shards: float
    relatives: float
    spread: float
    drift: float


def measure(order: Order, shard: int = SHARD, patient: int = PATIENT, near: int = NEAR, runs: int = 8) -> Figures:
    """Figures of ``runs`` stretches of ``near`` batches, evenly spread over the first epoch.

    Variances are expectations over classes that are drawn for each shard independently.
    """
    of_all = np.bincount(np.arange(order.sizes[0]) // shard) / order.sizes[0]
    starts = np.linspace(0, order.steps_per_epoch - near, runs).astype(int)
    result = []
    for start in starts.tolist():
        index = np.stack([order.batch_at(step).index for step in range(start, start + near)])
        result.append(
            (
                len(np.unique(index // shard)),
                float(np.mean([_in_company(batch // patient).mean() for batch in index])),
                float(np.mean([_variance(batch // shard, of_all) for batch in index])),
                _variance(index.ravel() // shard, of_all),
            )
        )
    return Figures(*np.mean(result, 0).tolist())


def _variance(shards: np.ndarray, of_all: np.ndarray) -> float:
    """Of the class's share among images of these ``shards`` [n] around its share of all, divided by that of n images
    drawn at random. ``of_all``: each shard's part of all images."""
    here = np.bincount(shards, minlength=len(of_all)) / len(shards)
    return float(((here - of_all) ** 2).sum() / ((1 - (of_all**2).sum()) / len(shards)))


def _in_company(group: np.ndarray) -> np.ndarray:
    """Whether another element is the same, bool [b]."""
    _, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
    several: np.ndarray = (count > 1)[inverse]
    return several


def main() -> None:
    parser = argparse.ArgumentParser(prog="randomness", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(f"{options.rows} images in shards of {SHARD}, patients of {PATIENT}; batches of {options.batch}\n")
    print(f"| lanes | block | window | shards in {NEAR} steps | relatives | spread | drift |")
    print("|---|---|---|---|---|---|---|")
    for lanes in (options.batch, 8):
        for block in (1, 16, 64, 256, 1000):
            for window in (1, 4, 16) if block > 1 else (1,):
                order = Order((options.rows,), seed=0, batch=options.batch, lanes=lanes, block=block, window=window)
                f = measure(order)
                print(
                    f"| {lanes} | {block} | {window} | {f.shards:.0f} | {f.relatives:.1%} | {f.spread:.1f} "
                    f"| {f.drift:.1f} |"
                )


if __name__ == "__main__":
    main()
