"""The ladder's figures as a table, and what follows from the rows of all rungs together."""

from typing import Any

from benchmarks.gpu.basics import peak
from benchmarks.gpu.rungs import IEEE

# How far the losses of the first step may be from IEEE fp32's: another order of sums, 10 bits of mantissa, 7 bits. Each
# step's rounding grows in the next: the others may be LATER times as far.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
LATER = 10
WIDTH = 32  # of a rung's name
HEAD = (
    f"{'':<{WIDTH}}{'images/s':>9}{'x authors':>11}{'ms':>8}{'host ms':>9}{'TFLOP/s':>9}{'% peak':>8}"
    f"{'GiB':>7}{'losses off by':>18}"
)


def finish(rows: list[dict[str, Any]], device: str) -> None:
    """What follows from the rows of all rungs so far: speed-up, TFLOP/s, share of peak, agreement."""
    for row in rows:
        if "seconds_per_step" not in row:
            continue
        same = [other for other in rows if other["network"] == row["network"] and "seconds_per_step" in other]
        authors = next((other for other in same if other["authors"] and other["batch"] == row["batch"]), None)
        row["times_authors"] = row["images_per_second"] / authors["images_per_second"] if authors else None
        plain = next((other for other in same if other["rung"] == IEEE), None)
        if plain is None:
            continue
        row["tflops"] = plain["flops_per_image"] * row["images_per_second"] / 1e12
        most = peak(device, row["kind"])
        row["share_of_peak"] = row["tflops"] / most if most else None
        if not row["alike"]:
            continue
        first, *later = [deviation(*pair) for pair in zip(row["losses"], plain["losses"], strict=True)]
        row["deviation"], row["deviation_later"], row["tolerance"] = first, max(later), TOLERANCE[row["kind"]]
        row["agrees"] = first <= row["tolerance"] and max(later) <= LATER * row["tolerance"]


def deviation(losses: dict[str, float], reference: dict[str, float]) -> float:
    """Largest difference of a term in a step, as a share of the term or of the whole loss, whichever is larger: a term
    near 0 (SimSiam's starts there) has no relative difference that says anything."""
    whole = abs(reference["loss"])
    return max(abs(losses[name] - value) / max(abs(value), whole) for name, value in reference.items())


def text(report: dict[str, Any]) -> str:
    """The report as tables, network by network, and in words what was not run."""
    title = f"{report['device']}, torch {report['torch']}, batch {report['batch']} of {report['size']} pixels"
    lines = [title + (": a rehearsal, its figures say nothing" if report["rehearsal"] else ""), HEAD]
    for network in dict.fromkeys(row["network"] for row in report["rungs"]):
        lines += [network, *(line(row) for row in report["rungs"] if row["network"] == network)]
    lines.append(
        "x authors: images/s as a multiple of the authors' loop at the same batch; empty where that was not run"
    )
    lines += [f"not run, the time was up: {title}" for title in report["not_run"]]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """A rung in the table; what is not known stays empty."""
    start = f"  {row['rung']:<{WIDTH - 2}}"
    if why := row.get("failed") or row.get("left_out"):
        return f"{start}  {why}"

    memory, share, host = row["peak_memory"], row.get("share_of_peak"), row["host_seconds_per_step"]
    cells = [
        cell(row["images_per_second"], 9, 1), cell(row.get("times_authors"), 11, 2),
        cell(1e3 * row["seconds_per_step"], 8, 1), cell(host and 1e3 * host, 9, 1),
        cell(row.get("tflops"), 9, 2), cell(share and 100 * share, 8, 1), cell(memory and memory / 2**30, 7, 1),
    ]  # fmt: skip
    off = "" if "deviation" not in row else f"{row['deviation']:.0e} of {row['tolerance']:.0e}"
    return f"{start}{''.join(cells)}{off:>18}{'' if row.get('agrees', True) else '  DIFFERS'}".rstrip()


def cell(value: float | None, width: int, digits: int) -> str:
    """A figure in its column."""
    return " " * width if value is None else f"{value:{width},.{digits}f}"


def sound(report: dict[str, Any]) -> bool:
    """Whether every rung that was run came to an end, in memory's bounds, with the losses that it must have."""
    failed = [row for row in report["rungs"] if not row.get("failed", "out of memory").startswith("out of memory")]
    return not failed and all(row.get("agrees", True) for row in report["rungs"])
