"""Audit a finished dataset: does it contain identifying values, is any patient or image in two splits?"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.shard.curate.audit.harvest import harvest
from dira_scale.shard.curate.audit.leaks import find_leaks
from dira_scale.shard.curate.audit.patients import shared_patients
from dira_scale.shard.curate.audit.report import AuditReport, TwinImage, TwinPair, full_file, print_report
from dira_scale.shard.curate.audit.twins import exact_twins, near_twins, thumbnails
from dira_scale.shard.curate.audit.values import Values
from dira_scale.shard.curate.audit.words import own_words


def audit(
    path: str, source: str | None, tables: Sequence[str], against: Sequence[str], near_duplicates: bool, workers: int
) -> int:
    """Print the findings, and save them in full beside the dataset. Returns 1 if something must not be there, else 0.

    Raises UserError if an input is missing, unreadable or incompatible.
    """
    if tables and not source:
        raise UserError("tables=… needs a source: name its folder with source=…")
    datasets = [ShardedDataset.open(folder) for folder in (path, *against)]
    if len({dataset.info.dims for dataset in datasets}) > 1:
        raise UserError(f"against={list(against)}: images and volumes cannot be compared with each other")
    full_file(datasets[0].root)
    report = AuditReport(patients=shared_patients(datasets))
    with tempfile.TemporaryDirectory(prefix="dira_scale-audit-") as scratch:  # mode 0700: it holds identities
        try:
            if source:
                report.values = Values.of(harvest(source, tables, workers), own_words(datasets[0]))
                report.leaks = find_leaks(datasets[0], report.values, Path(scratch), workers)
            if near_duplicates:
                report.twins = _twins(datasets, Path(scratch), workers)
        except OSError as error:
            raise UserError(
                f"the audit of {path} failed ({error}): fix this, then run the same command again"
            ) from error
    return print_report(report, datasets[0].root)


def _twins(datasets: Sequence[ShardedDataset], scratch: Path, workers: int) -> list[TwinPair]:
    """Pairs with at least one image of the first dataset, except a patient's own images within a split."""
    images = [
        TwinImage(dataset.root.name, split, key, patient, str(dataset.file(shard)), codec)
        for dataset in datasets
        for split, key, patient, shard, codec in zip(
            *(dataset.table[name].to_pylist() for name in ("split", "key", "patient", "shard", "codec")), strict=True
        )
    ]
    count = datasets[0].table.num_rows
    _, group = np.unique([f"{i.dataset} {i.split} {i.patient}" for i in images], return_inverse=True)
    exact = [t for t in exact_twins(datasets) if t.image < count and group[t.image] != group[t.other]]
    near = near_twins(thumbnails(datasets, scratch, workers), group, count, workers)
    known = {(twins.image, twins.other) for twins in exact}
    pairs = exact + [twins for twins in near if (twins.image, twins.other) not in known]
    return [TwinPair(images[image], images[other], alike, how) for image, other, alike, how in pairs]
