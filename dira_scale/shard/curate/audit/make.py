"""Audit a finished dataset: does it contain identifying values, is any patient or image in two splits?"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.curate.audit.harvest import harvest
from dira_scale.shard.curate.audit.leaks import MOST_HITS, find_leaks
from dira_scale.shard.curate.audit.report import AuditFinding, AuditReport
from dira_scale.shard.curate.audit.search import SourceValues
from dira_scale.shard.curate.audit.shared import MIN_CORRELATION, shared_images, shared_patients
from dira_scale.shard.curate.audit.texts import own_words

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
                report.add(title, shared_images(datasets, report.print, Path(scratch), workers))
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
