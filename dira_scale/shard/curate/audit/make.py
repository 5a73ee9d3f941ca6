"""Audit a finished dataset: does it contain identifying values, is any patient or image in two splits?"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.curate.audit.harvest import harvest
from dira_scale.shard.curate.audit.leaks import MOST_HITS, find_leaks
from dira_scale.shard.curate.audit.report import AuditFinding, AuditReport
from dira_scale.shard.curate.audit.search import SourceValues
from dira_scale.shard.curate.audit.texts import own_words
from dira_scale.shard.curate.audit.twins import MIN_CORRELATION, near_twins, thumbnails
from dira_scale.shard.curate.several import by_split, in_several

GUARDED = ("test", "val")  # evaluation splits: their patients must not be trained on
CHANCE = 0.01  # expected hits by chance from which they are mentioned


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
    report = AuditReport(datasets[0].root)
    with tempfile.TemporaryDirectory(prefix="dira_scale-audit-") as scratch:  # mode 0700: it holds identities
        try:
            if source:
                values = SourceValues.of(harvest(source, tables, workers), own_words(datasets[0]))
                _report_leaks(report, datasets[0], values, Path(scratch), workers)
            report.add("patients in two splits", shared_patients(datasets))
            if remark := datasets[0].info.split_remark:
                report.print(f"splits: {remark}")
            for other in datasets[1:]:
                if why := datasets[0].info.incomparable(other.info):
                    report.print(f"patients: cannot be compared, {datasets[0].root.name} and {other.root.name}: {why}")
            if near_duplicates:
                title = f"near-duplicates between patients, splits or datasets, alike by {MIN_CORRELATION} or more"
                report.add(title, _twins(datasets, report, Path(scratch), workers))
        except OSError as error:
            raise UserError(
                f"the audit of {path} failed ({error}): fix this, then run the same command again"
            ) from error
    return report.end("" if source else "; identifying values were not searched for: name their source, source=FOLDER")


def _report_leaks(
    report: AuditReport, dataset: ShardedDataset, values: SourceValues, scratch: Path, workers: int
) -> None:
    leaks = find_leaks(dataset, values, scratch, workers)
    report.print(f"{len(values.long)} identifying values were searched for in {leaks.size / 1e6:.1f} MB of raw bytes "
                 f"and the decoded texts, {len(values.short)} shorter ones as words of the decoded texts")  # fmt: skip
    if values.not_searched:
        kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(kind for kind, _ in values.not_searched).most_common())
        report.print(f"not searched for, as they are words of the recipe or the program: {kinds}")
        rows = sorted(values.not_searched)
        report.findings += [AuditFinding("not searched", "", "", "", *row, harm=False) for row in rows]
    if leaks.coincidences:
        report.print(f"not counted: {leaks.coincidences} places within our own longer words, hashes or numbers")
    if (chance := values.expected_by_chance() * leaks.size) > CHANCE:
        report.print(f"of the hits in raw bytes, {chance:.2g} are expected by chance")
    report.add(f"identifying values (at most about {MOST_HITS} of a file)", leaks.hits)


def shared_patients(datasets: Sequence[ShardedDataset]) -> list[AuditFinding]:
    """Patients, as keyed hashes, in two splits of the first dataset, or in one of it and one of another.

    Hashes are comparable only if key and archive were the same. If that is unknown, shared hashes are still reported,
    as equal 96-bit hashes are no coincidence; but an empty intersection proves nothing.
    """
    people = sorted((number, split) for number, dataset in enumerate(datasets) for split in dataset.splits)

    def columns() -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        for number, dataset in enumerate(datasets):
            groups = [people.index((number, split)) for split in dataset.splits]
            yield from by_split(dataset, "patient", groups)

    several = in_several(columns, sum(len(dataset.index.records) for dataset in datasets))
    findings = []
    for (one, (number, first)), (two, (other_number, other)) in combinations(enumerate(people), 2):
        if number == 0:
            samples = f"{datasets[0].root.name} {first}", f"{datasets[other_number].root.name} {other}"
            harm = harmful(first, other, other_number == 0)
            both = sorted(patient for patient, of in several.items() if one in of and two in of)
            findings += [AuditFinding("shared patient", *samples, "", "", patient, harm) for patient in both]
    return findings


def _twins(datasets: Sequence[ShardedDataset], report: AuditReport, scratch: Path, workers: int) -> list[AuditFinding]:
    """Pairs with at least one image of the first dataset, except a patient's own images within a split."""
    starts = np.cumsum([0, *(len(dataset.index.records) for dataset in datasets)]).tolist()
    group, groups = np.empty(starts[-1], np.int64), 0  # of one dataset, split and patient
    for dataset, start in zip(datasets, starts, strict=False):
        for rows in map(dataset.rows, dataset.splits):
            group[start + rows] = groups + dataset.patients.codes[rows]
            groups += len(dataset.patients.names)
    found = near_twins(thumbnails(datasets, scratch, workers), group, starts[1], workers, report.print)
    images = np.unique(np.array([twins[:2] for twins in found], np.int64))
    known: dict[int, tuple[str, str, str]] = {}  # of these images the name of the dataset, the split and the key
    for dataset, start, end in zip(datasets, starts, starts[1:], strict=False):
        mine = images[(images >= start) & (images < end)]
        cells = (row for part in dataset.manifest.at(["split", "key"], mine - start) for row in part.to_pylist())
        known |= {n: (dataset.root.name, *row.values()) for n, row in zip(mine.tolist(), cells, strict=True)}
    findings = []
    for twins in found:
        (name, split, key), (other_name, other_split, other_key) = known[twins.image], known[twins.other]
        samples, how = (f"{name} {split}", f"{other_name} {other_split}"), f"{twins.alike} {twins.how}"
        harm = harmful(split, other_split, name == other_name)
        findings.append(AuditFinding("near-duplicate", *samples, how, key, other_key, harm))
    return findings


def harmful(first: str, other: str, same_dataset: bool) -> bool:
    """Return whether these splits must share nothing: two splits of a dataset, or an evaluation split and another."""
    return (first in GUARDED) != (other in GUARDED) or (same_dataset and first != other)
