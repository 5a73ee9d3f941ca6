"""``--help``: an example, the most important keys, then all keys, each with default, type, bounds and meaning."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig
from yaml import CollectionNode, MappingNode, Node, ScalarNode

from dira_scale.config.files import Root, roots
from dira_scale.config.keys import leaves, typed
from dira_scale.config.schema import PATH_WORDS, PathKind, kind_words


def describe(
    command: str,
    config: DictConfig,
    schema: type,
    paths: Mapping[str, PathKind],
    root: Root,
    choices: Mapping[str, str],
    config_dirs: list[Path],
) -> str:
    """The text of ``--help`` for a composed configuration.

    Args:
        paths: the keys that hold paths.
        root: the command's example, and what matters first.
        choices: the option chosen in each group.
        config_dirs: folders given by ``--config-dir``.
    """
    meanings = comments(command, choices, roots(command, config_dirs))
    lines = {key: _key(key, value, schema, paths, meanings) for key, value in leaves(config)}
    groups = dict(_groups(choices, roots(command, config_dirs)))
    text = [
        f"example: python -m dira_scale.{command.replace('_', ' ')} {root.example}".rstrip(),
        "(KEY=VALUE in Hydra's grammar; --cfg prints the configuration and stops; "
        "--config-dir DIR adds a folder of your own groups, such as experiments)",
    ]
    if root.first:
        most = (line for key in root.first for line in ([groups[key]] if key in groups else lines.get(key, [])))
        text += ["", "what matters most:", *most]
    if groups:
        text += ["", "groups (GROUP=OPTION sets many keys at once):", *groups.values()]
    return "\n".join([*text, "", "all keys:" if root.first else "keys:", *_all(lines, meanings)])


def _groups(choices: Mapping[str, str], folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Each group with its line."""
    for group in sorted(choices):
        if group.startswith("_"):  # chosen by another group
            continue
        options = sorted({file.stem for root in folders for file in (root / group).glob("*.yaml")})
        if options:
            yield group, f"  {group}=  one of {', '.join(options)}"


def _all(lines: Mapping[str, list[str]], meanings: Mapping[str, str]) -> Iterator[str]:
    shown: set[str] = set()
    for key, text in lines.items():
        names = key.split(".")
        for depth in range(1, len(names)):  # a node's meaning comes before its first key
            node = ".".join(names[:depth])
            if node in meanings and node not in shown:
                shown.add(node)
                yield f"  {node}: {meanings[node]}"
        yield from text


def _key(
    key: str, value: object, schema: type, paths: Mapping[str, PathKind], meanings: Mapping[str, str]
) -> list[str]:
    words = kind_words(schema, key) or PATH_WORDS.get(paths.get(key, PathKind.CONSTRUCTED), "")
    if not words and value is not None and value != "???":
        words = type(value).__name__
    line = f"  {key}={typed(value)}" + (f" ({words})" if words else "")
    return [line, f"      {meanings[key]}"] if key in meanings else [line]


def comments(command: str, choices: Mapping[str, str], roots: Iterable[Path]) -> dict[str, str]:
    """Comments by dotted key, from the command's own file and the options chosen in its groups."""
    meanings: dict[str, str] = {}
    for root in roots:
        meanings |= of_file(root / f"{command}.yaml")
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
