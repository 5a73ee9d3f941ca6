"""The audit's report: counts and masked values are printed, as logs are shared; the findings in full go to a file."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dira_scale.archive.output import beside
from dira_scale.base.machine.console import Console
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import own_file
from dira_scale.base.storage.tables import harmless

HEADER = ("found", "file", "member", "position", "kind", "value")  # of the table in full, and its stamp
SHOWN = 10  # lines of a kind of finding
# Names of files that we generate: others may identify somebody.
GENERATED = r"([\w-]+-\d{6}\.tar|(dataset|croissant|manifest|quarantine)\.\w+|\w+\.beton|[0-9a-f]{24}(\.mask)?\.\w+)?"


class AuditFinding(NamedTuple):
    """A row of the full findings: something that is in ``file`` and ``member``, or in these two splits.

    Attributes:
        position: byte in the file or tar member, or the decoded part (``column reason``, ``tEXt chunk``); how alike two
            images are.
    """

    category: str  # "leak", "not searched", "shared patient" or "near-duplicate"
    file: str
    member: str
    position: str
    kind: str
    value: str
    harm: bool = True  # the audit fails; not in the file


class AuditReport:
    """Prints findings, and writes them in full to ``NAME.audit.csv`` beside the dataset at ``root``."""

    def __init__(self, root: Path) -> None:
        """Raises UserError where there is another file of that name."""
        self.path = beside(root, "audit.csv")  # of one in a store in the working directory: values stay here
        own_file(self.path, "path", stamp=",".join(HEADER))
        self.print = Console(soft_wrap=True, highlight=False, markup=False).print
        self.findings: list[AuditFinding] = []

    def add(self, title: str, findings: Sequence[AuditFinding]) -> None:
        """Print how many there are, and the most common of them without their values."""
        self.findings += findings
        self.print(f"{title}: {len(findings) or 'none'}")
        values = {finding.value.lower() for finding in findings if finding.category == "leak"}
        lines = Counter(_masked(finding, values) for finding in findings)
        for line, count in lines.most_common(SHOWN):
            self.print(f"  {line}: {count} x")

    def end(self, unsearched: str = "") -> int:
        """Write the full findings and print the result; returns 1 for harm, else 0."""
        if self.findings:
            text = io.StringIO(newline="")
            csv.writer(text).writerows([HEADER, *(harmless(finding[: len(HEADER)]) for finding in self.findings)])
            write_atomic(self.path, text.getvalue().encode(errors="surrogateescape"), private=True)
            self.print(f"full findings (readable by you only): {self.path}")
        else:
            self.path.unlink(missing_ok=True)  # an older one's
        failed = any(finding.harm for finding in self.findings)
        self.print("the audit FAILED" if failed else f"the audit found nothing that must not be there{unsearched}")
        return int(failed)


def _masked(finding: AuditFinding, values: Iterable[str]) -> str:
    """The finding without names and values of the source; a leak may also be in the name of a file or column."""
    if finding.category == "shared patient":
        return f"{finding.file} and {finding.member}"
    if finding.category == "near-duplicate":
        return f"{finding.file} and {finding.member}, {finding.position.partition(' ')[2] or 'nearly the same'}"
    position = "raw bytes" if finding.position.startswith("byte ") else finding.position
    if any(value in position.lower() for value in values if value != position.lower()):
        position = mask(position)
    name = finding.file
    if not re.fullmatch(GENERATED, name.rpartition("/")[2]) or any(value in name.lower() for value in values):
        name = mask(name)
    return f"{mask(finding.value)}, {finding.kind}, in {name}, {position}"


def mask(value: str) -> str:
    """The first two characters (fewer of short values) and the length: enough for someone who knows the source."""
    return f"{value[: min(2, len(value) // 2)]}… ({len(value)})"
