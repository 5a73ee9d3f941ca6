"""The table of a call's results, ``gpu.txt``: each figure stands beside what the planner expects of it and beside the
last one: ``last.json``, a ``gpu.json`` of an earlier time, or what is known of it.

    python -m benchmarks.gpu.table GPU_JSON      keeps its figures in last.json, its kernels in kernels.txt beside it
"""

import hashlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import steps

SURPRISE = 2.0  # times as much as was expected, or as little
EVEN = 1.03  # times as fast as the last one, or as slow, is no difference
FASTER = {"ms": False, "s": False, "images/s": True, "TFLOP/s": True}  # unit -> whether more of it is
LAST = Path(__file__).with_name("last.json")
KEPT = 20  # kernels of a step


def code() -> str:
    """Return a digest of the sources of training, which tells old figures from those of today's code."""
    sources = sorted((LAST.parents[2] / "dira_scale" / "train").rglob("*.py"))
    return hashlib.blake2b(b"".join(path.read_bytes() for path in sources), digest_size=6).hexdigest()


def keep(content: dict[str, Any]) -> None:
    """Put the figures of these parts into ``last.json``, in the place of theirs, and the kernels into their file."""
    last = json.loads(LAST.read_text()) | {key: content[key] for key in ("device", "date")}
    last["environment"] = {"torch": content["environment"]["torch"]}
    for part in content["parts"]:
        figures = {name: item.get("figures", {}) for name, item in content[part]["items"].items()}
        values = {
            name: {k: {"value": float(f"{v['value']:.3g}")} for k, v in of.items()} for name, of in figures.items()
        }
        last[part] = {"code": content["code"], "items": {name: {"figures": of} for name, of in values.items()}}
    LAST.write_text(json.dumps(last) + "\n")
    if traced := content.get("profile", {}).get("items"):
        tables = [line for name, item in traced.items() for line in kernels(name, item.get("kernels", [])[:KEPT])]
        LAST.with_name("kernels.txt").write_text("\n".join([f"{content['device']}, {content['date']}", *tables]) + "\n")


def text(content: dict[str, Any], last: dict[str, Any] | None = None, tables: bool = True) -> str:
    """All so far: the machine; part by part how it ended, its figures beside ``last``, and what was left out; and, as
    ``tables``, steps' dearest kernels."""
    last = json.loads(LAST.read_text()) if last is None else last
    if content.get("rehearsal"):
        last = {}
    lines = ["a rehearsal: its figures say nothing"] * bool(content.get("rehearsal"))
    lines += [f"{key}: {value}" for key, value in content.get("environment", {}).items()]
    lines += [f"{key}: {content[key]}" for key in ("expectation",) if key in content]
    if last:
        lines.append(f"last: {last['device']}, torch {last['environment']['torch']}, {last['date']}")
    lines += ["", f"{'':<58}{'measured':>12}{'expected':>11}{'ratio':>9}{'last':>11}"]
    for part, ended in content.get("parts", {}).items():
        state, before = content.get(part, {}), last.get(part, {}).get("items", {})
        changed = bool(before and last[part].get("code") != content.get("code"))
        lines.append(f"{part}: {ended['why']}, {ended['seconds']:.0f} s{'; the code has changed since last' * changed}")
        for name, item in steps.finished(state.get("items", {}), content).items():
            lines += rows(name, item, content, before.get(name, {}).get("figures", {}), last.get("device"))
        lines += [f"  {name}: not run, the time was up" for name in state.get("not_run", [])]
    for name, item in content.get("profile", {}).get("items", {}).items() if tables else ():
        lines += kernels(name, item.get("kernels", []))
    return "\n".join(lines) + "\n"


def rows(
    name: str, item: dict[str, Any], content: dict[str, Any], last: dict[str, Any], card: str | None
) -> Iterator[str]:
    """The lines of an item, or why it has none."""
    if why := item.get("failed") or item.get("left_out"):
        yield f"  {name}: {'FAILED, ' if 'failed' in item else 'left out, '}{why}"
    for what, row in item.get("figures", {}).items():
        before = last[what]["value"] if what in last else None
        yield f"  {name + ': ' + what + ', ' + row['unit']:<56}{cells(row, content, before, card)}".rstrip()
    for where in item.get("places", []):
        yield f"    {where['times']} x {where['message']}"
        yield from (f"        {frame}" for frame in where["stack"])


def kernels(name: str, dearest: list[tuple[float, float, int, str, str]]) -> Iterator[str]:
    """The table of a traced step's kernels."""
    yield from ["", f"{name + ', the dearest kernels':<58}{'kind':>12}{'ms':>11}{'share':>9}{'calls':>11}"]
    for ms, share, calls, kind, kernel in dearest:
        first, *rest = textwrap.wrap(kernel, 54, break_on_hyphens=False)[:2] or [""]
        yield f"  {first:<56}{kind:>12}{ms:>11.3f}{share:>9.1%}{calls:>11}"
        yield from (f"    {line}" for line in rest)


def cells(row: dict[str, Any], content: dict[str, Any], last: float | None, card: str | None) -> str:
    """Return a figure beside its expectation and its last value, on ``card``; it may be far off either."""
    expected, value = row["expected"], row["value"]
    if isinstance(expected, list | tuple):
        expected = content.get("expected", {}).get(expected[0], {}).get(expected[1])
    ratio = value / expected if expected else None
    odd = ratio is not None and not 1 / SURPRISE <= ratio <= SURPRISE and not content.get("rehearsal")
    marks = "  SURPRISE" * odd + "  NOT FINE" * (not row["fine"])
    if last and value and row["unit"] in FASTER:
        speed = value / last if FASTER[row["unit"]] else last / value
        if content.get("device") != card:
            marks += f"  {speed:.2f} x {card}"
        elif not 1 / EVEN <= speed <= EVEN:
            marks += f"  {'faster' if speed > 1 else 'slower'}, {speed:.2f} x"
    shown = f"{number(value):>12}{number(expected):>11}{number(ratio):>9}{number(last):>11}{marks}"
    return f"{shown}  {row['note']}" if row["note"] else shown


def number(value: float | None) -> str:
    """Three digits at least, or nothing."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


if __name__ == "__main__":
    keep(json.loads(Path(sys.argv[1]).read_text()))
