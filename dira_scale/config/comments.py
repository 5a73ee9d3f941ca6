"""The meaning of keys for ``--help``: the comment beside or above each key in its YAML file."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from yaml import CollectionNode, MappingNode, Node, ScalarNode


def comments(verb: str, choices: Mapping[str, str], roots: Iterable[Path]) -> dict[str, str]:
    """Comments by dotted key, from the verb's own file and the options chosen in its groups."""
    meanings: dict[str, str] = {}
    for root in roots:
        meanings |= of_file(root / f"{verb}.yaml")
        for group, option in choices.items():
            meanings = of_file(root / group / f"{option}.yaml", f"{group.replace('/', '.')}.") | meanings
    return meanings


def of_file(file: Path, prefix: str = "") -> dict[str, str]:
    """Comments of a file's keys, with ``prefix``; includes the files in its defaults, as they are (``- pretrain``) or
    as a node (``- moco@base``)."""
    if not file.is_file():
        return {}
    text = file.read_text()
    meanings: dict[str, str] = {}
    for option in (yaml.safe_load(text) or {}).get("defaults", []):
        name, _, node = option.partition("@") if isinstance(option, str) else ("", "", "")
        if name and name != "_self_":
            meanings |= of_file(file.parent / f"{name}.yaml", f"{prefix}{node}." if node else prefix)
    root = yaml.compose(text, yaml.SafeLoader)
    return meanings | dict(_of_mapping(root, text.splitlines(), prefix)) if isinstance(root, MappingNode) else meanings


def _of_mapping(mapping: MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in mapping.value:
        words = [*_above(key, lines), _behind(key, value, lines)]
        if comment := " ".join(filter(None, words)):
            yield f"{prefix}{key.value}", comment
        if isinstance(value, MappingNode) and not value.flow_style:
            yield from _of_mapping(value, lines, f"{prefix}{key.value}.")


def _above(key: Node, lines: list[str]) -> list[str]:
    """Comment lines directly above a key; with a blank line between, they belong to the file."""
    above: list[str] = []
    for line in reversed(lines[: key.start_mark.line]):
        if not line.lstrip().startswith("#"):
            break
        above.insert(0, line.lstrip().lstrip("#").strip())
    return above


def _behind(key: Node, value: Node, lines: list[str]) -> str:
    """The comment at the end of a key's line, or of the last line of its value in brackets."""
    inline = isinstance(value, ScalarNode) or (isinstance(value, CollectionNode) and value.flow_style)
    end = value.end_mark if inline else key.end_mark
    return lines[end.line][end.column :].partition("#")[2].strip() if end.line < len(lines) else ""
