"""What an audit found: told with values masked, for logs are shared; in full in a file for its owner alone."""

import csv
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dira_scale.curation.audit.leaks import MOST, Hit, SearchResult
from dira_scale.curation.audit.patients import PatientComparison, harmful
from dira_scale.places.store import is_local

SHOWN = 10  # examples of a kind
WIDTH = 160  # of tables: a key that is cut is of no use
WORTH_TELLING = 0.01  # hits by chance


@dataclass(frozen=True)
class TwinImage:
    """One of a pair of twins, as it is told."""

    dataset: str
    split: str
    key: str
    patient: str


@dataclass(frozen=True)
class TwinPair:
    one: TwinImage
    other: TwinImage
    alike: float
    how: str

    @property
    def harm(self) -> bool:
        return harmful(self.one.split, self.other.split, self.one.dataset == self.other.dataset)


@dataclass
class Report:
    """All that was found; ``leaks`` is None where no source was named."""

    leaks: SearchResult | None = None
    searched: tuple[int, int] = (0, 0)  # long values, short ones
    not_searched: list[tuple[str, str]] = field(default_factory=list)
    by_chance: float = 0.0
    patients: PatientComparison = field(default_factory=lambda: PatientComparison([], []))
    twins: list[TwinPair] | None = None

    @property
    def failed(self) -> bool:
        found = bool(self.leaks and self.leaks.hits) or any(shared.harm for shared in self.patients.shared)
        return found or any(pair.harm for pair in self.twins or ())


def tell(report: Report, place: Path) -> int:
    """Print it, write what was found in full beside the dataset at ``place``; the exit code: 1 for harm, else 0."""
    console = Console(soft_wrap=True, highlight=False, width=WIDTH)
    _tell_leaks(report, console)
    _tell_patients(report.patients, console)
    if report.twins is not None:
        _tell_twins(report.twins, console)
    if kept := _keep(place, _full(report)):
        console.print(f"all of it in full, for you alone: {kept}")
    console.print("the audit FAILED" if report.failed else "the audit found nothing that must not be there")
    return 1 if report.failed else 0


def mask(value: str) -> str:
    """The first two characters (of short ones fewer) and the length: enough for who knows the source."""
    return f"{value[: min(2, len(value) // 2)]}… ({len(value)})"


def _tell_leaks(report: Report, console: Console) -> None:
    if report.leaks is None:
        console.print("identifying values: not looked for; source=FOLDER (and tables=[CSV]) names where they are")
        return
    long, short = report.searched
    console.print(f"identifying values: {long} searched in {report.leaks.size / 1e6:.1f} MB of raw bytes and all that "
                  f"they decode to, {short} shorter ones as words of what is decoded")  # fmt: skip
    if report.not_searched:
        counts = Counter(kind for kind, _ in report.not_searched).most_common()
        kinds = ", ".join(f"{kind} {count}" for kind, count in counts)
        console.print(
            f"not searched, being words of the recipe or the program themselves: {len(report.not_searched)} ({kinds})"
        )
    if report.leaks.coincidences:
        count = report.leaks.coincidences
        console.print(f"not counted: {count} places within longer words, hashes or numbers of our own")
    if report.by_chance > WORTH_TELLING:
        console.print(f"of what is found among raw bytes, {report.by_chance:.2g} are to be expected by chance")
    if not report.leaks.hits:
        return console.print("identifying values: none is there")
    table = Table("value (length)", "what it is", "file", "where", "first in", "times", box=None)
    console.print("identifying values were found:")
    values = {hit.value for hit in report.leaks.hits}
    for (hit, where), count in list(_counted(report.leaks.hits).items())[: 2 * SHOWN]:
        place = mask(where) if any(value in where.lower() for value in values) else where
        file, member = (_safe(name, values) for name in (hit.file, hit.member))
        table.add_row(mask(hit.value), hit.kind, file, place, member, str(count))
    console.print(table)
    console.print(f"{len(report.leaks.hits)} places; a file is not searched further after {MOST}")


def _counted(hits: Sequence[Hit]) -> dict[tuple[Hit, str], int]:
    """One line for each value, kind and place in a file, with its first sample."""
    counts: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], Hit] = {}
    for hit in hits:
        line = (hit.file, hit.kind, hit.value, "raw bytes" if hit.place.startswith("byte") else hit.place)
        counts[line] += 1
        first.setdefault(line, hit)
    return {(first[line], first[line].place): count for line, count in counts.items()}


def _safe(name: str, values: Collection[str]) -> str:
    """A file's name of our own making as it is; another one masked, for it may be what must not be told."""
    ours = r"([\w-]+-\d{6}\.tar|(dataset|croissant|manifest|quarantine)\.\w+|\w+\.beton|[0-9a-f]{24}(\.mask)?\.\w+)?"
    known = re.fullmatch(ours, name.rpartition("/")[2]) and not any(value in name.lower() for value in values)
    return name if known else mask(name)


def _tell_patients(compared: PatientComparison, console: Console) -> None:
    if not compared.shared:
        console.print("patients: none is in two splits")
    for shared in compared.shared:
        harm = "" if shared.harm else " (both train, or both measure)"
        console.print(f"patients: {len(shared.patients)} are in {' and in '.join(shared.splits)}{harm}, such as "
                      f"{', '.join(shared.patients[:3])}")  # fmt: skip
    for told in compared.not_comparable:
        console.print(f"patients: cannot be compared, {told}")


def _tell_twins(twins: list[TwinPair], console: Console) -> None:
    if not twins:
        return console.print("near-duplicates: none between patients, splits and datasets")
    kinds = Counter((f"{p.one.dataset} {p.one.split}", f"{p.other.dataset} {p.other.split}", p.how) for p in twins)
    table = Table("in", "and in", "how", "pairs", box=None)
    console.print("near-duplicates, under two patients or in two splits or datasets:")
    for (one, other, how), count in kinds.most_common():
        table.add_row(one, other, how or "nearly the same", str(count))
    console.print(table)
    for pair in sorted(twins, key=lambda pair: -pair.alike)[:SHOWN]:
        console.print(f"  {pair.one.key}  {pair.other.key}  {pair.alike:.3f} {pair.how}")


def _full(report: Report) -> list[list[str]]:
    rows = [["leak", *hit] for hit in (report.leaks.hits if report.leaks else ())]
    rows += [["not searched", "", "", "", kind, text] for kind, text in report.not_searched]
    rows += [["shared patient", *shared.splits, "", "", key] for shared in report.patients.shared
             for key in shared.patients]  # fmt: skip
    rows += [["near-duplicate", f"{p.one.dataset} {p.one.split}", f"{p.other.dataset} {p.other.split}",
              f"{p.alike} {p.how}", p.one.key, p.other.key] for p in report.twins or ()]  # fmt: skip
    return rows


def _keep(place: Path, rows: list[list[str]]) -> Path | None:
    """``NAME.audit.csv`` beside the dataset; of one in a store, in the folder that one is in: values do not leave.
    None where there is nothing to keep; what an older audit found is gone then, too."""
    path = place.resolve() if is_local(place) else Path.cwd() / place.name
    path = path.with_name(f"{path.name}.audit.csv")
    path.unlink(missing_ok=True)
    if not rows:
        return None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([["found", "file", "member", "place", "kind", "value"], *rows])
    return path
