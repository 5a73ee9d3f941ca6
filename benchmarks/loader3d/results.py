"""What a case gave: tables and goals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.loader.goals import Goal
from benchmarks.loader.tables import images, tell
from benchmarks.loader.turns import Pace, Spread, ratio

LOADER, NNUNET, PERSISTENT = "ours: cpu", "nnU-Net's reader", "MONAI PersistentDataset"
READING, DECODING, COPYING, LIMIT = "limit: reading", "limit: decoding", "limit: copying", "limit: all three"
NEEDED = {"64x64x32": 1.5, "96x96x96": 1.2}  # times nnU-Net's reader


@dataclass(frozen=True)
class Result:
    """Crops of one size of one set of volumes, from memory or from the disk.

    Attributes:
        case, cold: which.
        paces: of each contender, round by round.
        sizes: bytes of the files that each one reads; 0: it has all in memory.
        left_out: who takes no part, and why.
        packages: the versions of the others.
    """

    case: str
    cold: bool
    paces: Mapping[str, Sequence[Pace]]
    sizes: Mapping[str, int]
    left_out: Mapping[str, str]
    packages: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.case}, {'cold' if self.cold else 'warm'}"

    def a_core(self, name: str) -> list[float]:
        """Crops/s of processor time."""
        return [1000 / pace.core_ms for pace in self.paces[name]]

    def rate(self, name: str) -> list[float]:
        """Crops/s of wall time."""
        return [pace.rate for pace in self.paces[name]]


def goals(result: Result, size: str) -> list[Goal]:
    """Of the loader and crops of ``size``: by crops/s a core from memory, by crops/s from the disk."""
    speed = result.rate if result.cold else result.a_core
    needed = {NNUNET: NEEDED[size], PERSISTENT: 3.0, LIMIT: 0.7}
    return [
        Goal(f"{result.title}: ours / {name}", ratio(speed(LOADER), speed(name)), least)
        for name, least in needed.items()
        if name in result.paces
    ]


def tell_result(console: Console, result: Result) -> None:
    """One table, who is left out below."""
    rows = []
    for name in result.paces:
        rate, core = result.rate(name), result.a_core(name)
        ours = name == LOADER
        rows.append((
            name, images(Spread.of(rate)), "" if ours else str(ratio(result.rate(LOADER), rate)),
            images(Spread.of(core)), "" if ours else str(ratio(result.a_core(LOADER), core)),
            f"{result.sizes[name] / 1e6:,.0f}" if result.sizes.get(name) else "",
        ))  # fmt: skip
    head = ["contender", "crops/s", "ours / it", "crops/s a core", "ours / it", "MB stored"]
    tell(console, result.title, head, rows)
    for name, why in result.left_out.items():
        console.print(f"without {name}: {why}", style="dim", highlight=False, markup=False)
    console.print()
