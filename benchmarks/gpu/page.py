"""``gpu.txt``: the content of ``gpu.json`` as text, in the order in which it was measured."""

from typing import Any

from benchmarks.gpu import checks, conv3d, loaders, table


def text(content: dict[str, Any]) -> str:
    """All figures so far, in the order in which they are measured."""
    parts = [heading(content)]
    parts += [f"{name}: {value}" for name, value in content.get("basics", {}).items()]
    if "conv3d" in content:
        parts += ["", conv3d.text(content["conv3d"]), ""]
    parts += [steady(name, result) for name, result in content.get("steady", {}).items()]
    for name, tell in {"ladder": table.text, "loaders": loaders.text, "compile": table.text}.items():
        if name in content:
            parts += ["", tell(content[name]).rstrip()]
    if "tests" in content:
        parts += ["", *map(checks.line, content["tests"])]
    ended = [f"{name}: {result['why']}, {result['seconds']:.0f} s" for name, result in content.get("parts", {}).items()]
    return "\n".join([*parts, "", *ended]) + "\n"


def heading(content: dict[str, Any]) -> str:
    """The machine and its optional packages."""
    lines = [f"{name}: {value}" for name, value in content.get("environment", {}).items()]
    return "\n".join(["a rehearsal: its figures say nothing"] * bool(content.get("rehearsal")) + lines)


def steady(name: str, result: dict[str, Any]) -> str:
    """A check and its outcome; the places where the host waited, with the lines that led there."""
    rest = ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("fine", "places"))
    lines = [f"{name}: {'fine' if result['fine'] else 'NOT FINE'}{f', {rest}' if rest else ''}"]
    for where in result.get("places", []):
        lines += [f"    {where['times']} x {where['message']}", *(f"        {frame}" for frame in where["stack"])]
    return "\n".join(lines)
