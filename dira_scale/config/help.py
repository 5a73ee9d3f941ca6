"""``--help``: every key with its default, its type and the comment that stands beside it in ``configs/``."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.config.compose import folder, leaves


def describe(verb: str, config: DictConfig, choices: Mapping[str, str], own: list[str]) -> str:
    """The text of ``--help`` for a composed configuration.

    Args:
        choices: the option chosen in each group.
        own: folders given by ``--config-dir``.
    """
    roots = [folder("configs"), folder("shards"), folder("slurm"), *map(Path, own)]
    lines = [
        f"usage: python -m dira_scale.{verb.replace('_', ' ')} KEY=VALUE ...",
        "(the grammar is Hydra's; --cfg prints the configuration and stops; --config-dir DIR adds your own groups)",
        "",
    ]
    for group in sorted(choices):
        options = sorted({file.stem for root in roots for file in (root / group).glob("*.yaml")})
        if options:
            lines.append(f"  {group}=  one of {', '.join(options)}")
    comments, said = _comments(verb, choices, roots), set()
    for key, value in leaves(config):
        names = key.split(".")
        for depth in range(1, len(names)):  # what is said of a whole node stands before its first key
            node = ".".join(names[:depth])
            if node in comments and node not in said:
                said.add(node)
                lines.append(f"  {node}: {comments[node]}")
        kind = "" if value is None or value == "???" else f" ({type(value).__name__})"
        lines.append(f"  {key}={'null' if value is None else value}{kind}")
        if key in comments:
            lines.append(f"      {comments[key]}")
    return "\n".join(lines)


def _comments(verb: str, choices: Mapping[str, str], roots: list[Path]) -> dict[str, str]:
    """Comments by key, of the verb's own file and of the options chosen."""
    found: dict[str, str] = {}
    for root in roots:
        found |= _file_comments(root / f"{verb}.yaml", "")
        for group, option in choices.items():
            found = _file_comments(root / group / f"{option}.yaml", group.replace("/", ".")) | found
    return found


def _file_comments(file: Path, package: str) -> dict[str, str]:
    """Comments of a file's keys under ``package``; what it takes from beside it (``- pretrain``), or a node of its own
    (``- moco@base``), is read with it."""
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    for option, node in re.findall(r"^\s*- (\w+)(?:@(\w+))?$", file.read_text(), re.MULTILINE):
        found |= _file_comments(file.parent / f"{option}.yaml", ".".join(filter(None, [package, node])))
    return found | dict(_keyed_comments(file, package))


def _keyed_comments(file: Path, package: str) -> Iterator[tuple[str, str]]:
    stack: list[tuple[int, str]] = []
    above: list[str] = []
    for line in file.read_text().splitlines():
        match = re.match(r"^(\s*)([\w-]+):(.*)$", line)
        if match:
            indent, key, rest = len(match.group(1)), match.group(2), match.group(3)
            stack = [*(s for s in stack if s[0] < indent), (indent, key)]
            behind = rest.split(" # ", 1)[1].strip() if " # " in rest else ""
            comment = " ".join([*above, behind]).strip()
            if comment:
                yield ".".join(filter(None, [package, *(s[1] for s in stack)])), comment
            above = []
        elif line.strip().startswith("#"):
            above.append(line.strip().lstrip("# "))
        else:
            above = []  # a comment with a blank line below speaks of the file
