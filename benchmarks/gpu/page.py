"""``gpu.txt``: the content of ``gpu.json`` as text, in the order in which it was measured."""

from typing import Any

from benchmarks.gpu import checks, conv3d, loaders, table


def text(content: dict[str, Any]) -> str:
    """All figures so far, in the order in which they are measured."""
    parts = [heading(content)]
    parts += [f"{name}: {value}" for name, value in content.get("basics", {}).items()]
    if "conv3d" in content:
        parts += ["", conv3d.text(content["conv3d"]), ""]
    parts += [steady(name, found) for name, found in content.get("steady", {}).items()]
    for name, tell in {"ladder": table.text, "loaders": loaders.text, "compile": table.text}.items():
        if name in content:
            parts += ["", tell(content[name]).rstrip()]
    if "tests" in content:
        parts += ["", *map(checks.line, content["tests"])]
    ended = [f"{name}: {found['why']}, {found['seconds']:.0f} s" for name, found in content.get("parts", {}).items()]
    return "\n".join([*parts, "", *ended]) + "\n"


def heading(content: dict[str, Any]) -> str:
    """The machine and its optional packages."""
    lines = [f"{name}: {value}" for name, value in content.get("environment", {}).items()]
    return "\n".join(["a rehearsal: its figures say nothing"] * bool(content.get("rehearsal")) + lines)


def steady(name: str, found: dict[str, Any]) -> str:
    """A check and its outcome; the places where the host waited, with the lines that led there."""
    rest = ", ".join(f"{key} {value}" for key, value in found.items() if key not in ("fine", "places"))
    lines = [f"{name}: {'fine' if found['fine'] else 'NOT FINE'}{f', {rest}' if rest else ''}"]
    for place in found.get("places", []):
        lines += [f"    {place['times']} x {place['message']}", *(f"        {frame}" for frame in place["stack"])]
    return "\n".join(lines)
