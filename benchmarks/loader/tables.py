"""The results as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.loader.goals import CPU, DISTORTED, Goal, cost_of_peers, from_peers, limit
from benchmarks.loader.speed import Result
from benchmarks.loader.turns import Spread, ratio

PARTS = ("open", "hash", "build", "first")  # of resuming: the dataset, its identity, the loader, the first batch


def tell(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One table; all columns but the first to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, "")


def case_rows(result: Result, peers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each contender: name, images/s, what ours is of it (by images/s, per core), it of the limit, core ms.

    Against a contender with the released augmentation, ours has its distortions too.
    """
    elsewhere = from_peers(result, peers)
    cost = result.core_ms | cost_of_peers(result, peers)
    rows: list[tuple[str, ...]] = []
    for name, speeds in (result.speeds | elsewhere).items():
        ours = DISTORTED if name.endswith("released") else CPU
        shown = f"{name} (of {peers['date']})" if name in elsewhere else name
        compared = ("", "") if result.kinds.get(name) == "ours" else (
            str(ratio(result.speeds[ours], speeds)), str(ratio(cost[name], cost[ours]))
        )  # fmt: skip
        of_limit, spent = ratio(speeds, result.speeds[limit(result)]), Spread.of(cost[name]).median
        rows.append((shown, images(Spread.of(speeds)), *compared, str(of_limit), f"{spent:.2f}"))
    return rows


def images(speeds: Spread) -> str:
    """Images/s, with the lowest and the highest."""
    return f"{speeds.median:,.0f} ({speeds.lowest:,.0f}-{speeds.highest:,.0f})"


def tell_case(console: Console, result: Result, peers: Mapping[str, Any], title: str) -> None:
    """One case, its absentees below."""
    head = ["contender", "images/s", "ours / it", "per core", f"it / {limit(result)}", "core ms"]
    tell(console, f"{result.case}: {result.kilobytes:,.0f} kB an image; {title}", head, case_rows(result, peers))
    for name, why in result.left_out.items():
        console.print(f"without {name}: {why}", style="dim", highlight=False, markup=False)
    if result.cold:
        cold = [(name, images(Spread.of(speeds)), str(ratio(result.cold[CPU], speeds)))
                for name, speeds in result.cold.items()]  # fmt: skip
        tell(console, f"{result.case}, one pass from the disk", ["contender", "images/s", "ours / it"], cold)
    if result.warm_only:
        console.print(f"not from the disk: {result.warm_only}", style="dim", highlight=False, markup=False)
    console.print()


def tell_goals(console: Console, goals: Sequence[Goal]) -> None:
    """Met or missed."""
    rows = [
        (goal.text, str(goal.value), f"{'<=' if goal.below else '>='} {goal.needed:g}", "met" if goal.met else "missed")
        for goal in goals
    ]
    tell(console, "Goals: median over the rounds (lowest-highest)", ["ratio", "found", "goal", ""], rows)


def tell_growth(console: Console, grown: Mapping[str, Any]) -> None:
    """Workers, rows and shards, memory."""
    if workers := grown["workers"]:
        item = next(iter(workers.values()))
        scaled = [(name, images(Spread.of(speeds)), str(ratio(speeds, item))) for name, speeds in workers.items()]
        tell(console, "Threads (jpg8-512)", ["threads", "images/s", "to one thread"], scaled)
    rows: list[tuple[str, ...]] = []
    for results in grown["opening"]:
        parts = [Spread.of(results[part]) for part in PARTS]
        whole = ratio(results["whole"], results["table"])
        rows.append((
            f"{results['rows']:,}", f"{results['shards']:,}", *(f"{part.median:.3f}" for part in parts),
            f"{Spread.of(results['whole']).median:.2f}", str(whole), f"{results['peak_mb']:,.0f}",
            f"{1e6 * results['peak_mb'] / results['rows']:,.0f}",
        ))  # fmt: skip
    head = ["rows", "shards", *PARTS, "all", "all / reading the table", "peak MB", "bytes a row"]
    tell(console, "Resuming at a random step: seconds, and memory above that of the imports", head, rows)
    flat = grown["memory"]
    resident = " ".join(f"{mb:.0f}" for mb in flat["resident_mb"])
    console.print(f"Resident memory over {flat['samples']:,} samples, MB: {resident}\n", highlight=False)
