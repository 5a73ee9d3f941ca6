"""The audit's report: printed with masked values, as logs are shared; in full in a file only its owner can read."""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from dira_scale.errors import counted
from dira_scale.machine.console import Console
from dira_scale.shard.curate.audit.leaks import MOST_HITS, SearchResult
from dira_scale.shard.curate.audit.patients import PatientComparison, harmful
from dira_scale.shard.curate.audit.twins import LEAST
from dira_scale.shard.curate.audit.values import Values
from dira_scale.storage.atomic import write_atomic
from dira_scale.storage.owned import own_file
from dira_scale.storage.store import is_local
from dira_scale.storage.tables import harmless

HEADER = ("found", "file", "member", "place", "kind", "value")  # of the table in full, and its stamp
SHOWN = 10  # examples of a kind
CHANCE = 0.01  # expected hits by chance from which they are mentioned


@dataclass(frozen=True)
class TwinImage:
    """One image of a reported pair."""

    dataset: str
    split: str
    key: str
    patient: str
    file: str = ""  # path of its shard
    codec: str = ""

    @property
    def place(self) -> str:
        return f"{self.dataset} {self.split}"


@dataclass(frozen=True)
class TwinPair:
    image: TwinImage
    other: TwinImage
    alike: float
    how: str

    @property
    def harm(self) -> bool:
        return harmful(self.image.split, self.other.split, self.image.dataset == self.other.dataset)


@dataclass
class AuditReport:
    """All findings; ``values`` and ``leaks`` are None if no source was named."""

    values: Values | None = None
    leaks: SearchResult | None = None
    patients: PatientComparison = field(default_factory=lambda: PatientComparison([], []))
    twins: list[TwinPair] | None = None

    @property
    def failed(self) -> bool:
        leaked = bool(self.leaks and self.leaks.hits) or any(shared.harm for shared in self.patients.shared)
        return leaked or any(pair.harm for pair in self.twins or ())


def print_report(report: AuditReport, root: Path) -> int:
    """Print it, and write the full findings beside the dataset at ``root``; returns 1 for harm, else 0."""
    console = Console(soft_wrap=True, highlight=False)
    _print_leaks(report.values, report.leaks, console)
    _print_patients(report.patients, console)
    if report.twins is not None:
        _print_twins(report.twins, console)
    if kept := _write_full(root, _full_rows(report)):
        console.print(f"full findings (readable by you only): {kept}")
    console.print(_conclusion(report))
    return 1 if report.failed else 0


def _conclusion(report: AuditReport) -> str:
    if report.failed:
        return "the audit FAILED"
    if report.leaks is None:
        compared = "patients" if report.twins is None else "patients and near-duplicates"
        return f"the audit found no harm in {compared}; identifying values were not searched for"
    return "the audit found nothing that must not be there"


def mask(value: str) -> str:
    """The first two characters (fewer of short values) and the length: enough for someone who knows the source."""
    return f"{value[: min(2, len(value) // 2)]}… ({len(value)})"


def _print_leaks(values: Values | None, leaks: SearchResult | None, console: Console) -> None:
    if values is None or leaks is None:
        console.print("identifying values: not searched; name their source with source=FOLDER (and tables=[CSV])")
        return
    console.print(f"identifying values: {len(values.long)} searched in {leaks.size / 1e6:.1f} MB of raw bytes and the "
                  f"decoded texts, {len(values.short)} shorter ones as words of the decoded texts")  # fmt: skip
    if values.not_searched:
        counts = Counter(kind for kind, _ in values.not_searched).most_common()
        kinds = ", ".join(f"{kind} {count}" for kind, count in counts)
        console.print(
            f"not searched, as they are words of the recipe or the program: {len(values.not_searched)} ({kinds})"
        )
    if leaks.coincidences:
        console.print(f"not counted: {leaks.coincidences} places within our own longer words, hashes or numbers")
    if (chance := values.expected_by_chance() * leaks.size) > CHANCE:
        console.print(f"of the hits in raw bytes, {chance:.2g} are expected by chance")
    if not leaks.hits:
        return console.print("identifying values: none found")
    console.print(f"identifying values found in {len(leaks.hits)} places (the search of a file stops at {MOST_HITS}):")
    found = {hit.value.lower() for hit in leaks.hits}
    lines: Counter[str] = Counter()
    for hit in leaks.hits:
        place = "raw bytes" if hit.position.startswith("byte") else hit.position
        place = mask(place) if any(value in place.lower() for value in found - {place.lower()}) else place
        lines[f"{mask(hit.value)}, {hit.kind}, in {_masked_name(hit.file, found)}, {place}"] += 1
    for line, count in lines.most_common(SHOWN):
        console.print(f"  {line}: {count} x")


def _masked_name(name: str, values: Collection[str]) -> str:
    """A file name if we generated it, else masked: it may itself identify somebody."""
    ours = r"([\w-]+-\d{6}\.tar|(dataset|croissant|manifest|quarantine)\.\w+|\w+\.beton|[0-9a-f]{24}(\.mask)?\.\w+)?"
    known = re.fullmatch(ours, name.rpartition("/")[2]) and not any(value in name.lower() for value in values)
    return name if known else mask(name)


def _print_patients(compared: PatientComparison, console: Console) -> None:
    if not compared.shared:
        console.print("patients: none is in two splits")
    for shared in compared.shared:
        harm = "" if shared.harm else " (both train, or both measure)"
        why = ", as in the published lists that it was made with (recipe.lists)" if shared.listed else ""
        console.print(f"patients: {len(shared.patients)} are in {' and in '.join(shared.splits)}{harm}{why}, such as "
                      f"{', '.join(shared.patients[:3])}")  # fmt: skip
    for pair in compared.not_comparable:
        console.print(f"patients: cannot be compared, {pair}")


def _print_twins(twins: list[TwinPair], console: Console) -> None:
    if not twins:
        return console.print("near-duplicates: none between patients, splits and datasets")
    console.print("near-duplicates between patients, splits or datasets:")
    kinds = Counter(f"{p.image.place} and {p.other.place}, {p.how or 'nearly the same'}" for p in twins)
    for kind, count in kinds.most_common():
        console.print(f"in {kind}: {counted(count, 'pair')}")
    for pair in sorted(twins, key=lambda pair: -pair.alike)[:SHOWN]:
        console.print(f"  {pair.image.key}  {pair.other.key}  {pair.alike:.3f} {pair.how}")
    first = max(twins, key=lambda pair: pair.alike)
    commands = [shlex.join(["tar", "-xf", i.file, f"{i.key}.{i.codec}"]) for i in (first.image, first.other)]
    console.print(f"to see the first pair: {' && '.join(commands)}")
    console.print("the number is the correlation of the two images' fine detail at 64 pixels: 1 is the same image; "
                  f"pairs are listed from {LEAST} on")  # fmt: skip


def _full_rows(report: AuditReport) -> list[list[str]]:
    rows = [["leak", *hit] for hit in (report.leaks.hits if report.leaks else ())]
    not_searched = report.values.not_searched if report.values else ()
    rows += [["not searched", "", "", "", kind, text] for kind, text in sorted(not_searched)]
    for shared in report.patients.shared:
        rows += [["shared patient", *shared.splits, "", "", key] for key in shared.patients]
    for p in report.twins or ():
        how = f"{p.alike} {p.how}"
        rows.append(["near-duplicate", p.image.place, p.other.place, how, p.image.key, p.other.key])
    return rows


def _write_full(root: Path, rows: list[list[str]]) -> Path | None:
    """Write ``NAME.audit.csv`` beside the dataset; for a store, in the working directory: values do not leave this
    machine. None if there are no findings; an older file is then removed."""
    path = full_file(root)
    if not rows:
        path.unlink(missing_ok=True)
        return None
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *map(harmless, rows)])
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"), private=True)
    return path


def full_file(root: Path) -> Path:
    """Return where ``NAME.audit.csv`` of a dataset is. Raises UserError where there is another file of that name."""
    path = root.resolve() if is_local(root) else Path.cwd() / root.name
    path = path.with_name(f"{path.name}.audit.csv")
    own_file(path, "path", stamp=",".join(HEADER))
    return path
