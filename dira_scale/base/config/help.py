"""``--help``: an example, the most important keys, then all keys, each with default, type, bounds and meaning."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path

import yaml
from omegaconf import DictConfig
from yaml import CollectionNode, MappingNode, ScalarNode

from dira_scale.base.config.files import Root, roots, small_options
from dira_scale.base.config.keys import leaves, typed
from dira_scale.base.config.schema import PathKind, kind_words

HERE = "_here_"  # in a file's defaults: in the node of this file itself


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
    folders = roots(command, config_dirs)
    meanings = comments(command, choices, folders)
    groups = {}
    for group in sorted(choices):
        files = {file.stem for root in folders for file in (root / group).glob("*.yaml")}
        options = sorted(files | {*small_options(command).get(group, ())})
        if options and not group.startswith("_"):  # chosen by another group
            groups[group] = f"  {group}=  one of {', '.join(options)}"
    lines, every_line = dict[str, list[str]](), list[str]()
    for key, value in leaves(config):
        words = kind_words(schema, key) or paths.get(key, PathKind.CONSTRUCTED).value
        if not words and value is not None and value != "???":
            words = type(value).__name__
        line = f"  {key}={typed(value)}" + (f" ({words})" if words else "")
        lines[key] = [line, f"      {meanings[key]}"] if key in meanings else [line]
        for node in accumulate(key.split(".")[:-1], "{}.{}".format):  # its meaning comes before its first key
            if node in meanings and f"  {node}: {meanings[node]}" not in every_line:
                every_line.append(f"  {node}: {meanings[node]}")
        every_line += lines[key]
    text = [
        f"example: python -m dira_scale.{command.replace('_', ' ')} {root.example}",
        "(KEY=VALUE in Hydra's grammar; --cfg prints the configuration and stops; "
        "--config-dir DIR adds a folder of your own groups, such as experiments)",
    ] * bool(root.example)
    if root.first:
        most = (line for key in root.first for line in ([groups[key]] if key in groups else lines.get(key, [])))
        text += ["", "what matters most:", *most]
    if groups:
        text += ["", "groups (GROUP=OPTION sets many keys at once):", *groups.values()]
    return "\n".join([*text, "", "all keys:" if root.first else "keys:", *every_line])


def comments(command: str, choices: Mapping[str, str], roots: Iterable[Path]) -> dict[str, str]:
    """Comments by dotted key, from the command's own file and the options chosen in its groups."""
    meanings: dict[str, str] = {}
    small = small_options(command)
    for root in roots:
        meanings |= of_file(root / f"{command}.yaml")
        for group, option in choices.items():
            for name in small.get(group, {}).get(option, {}).get("defaults", [option]):
                meanings = of_file(root / group / f"{name}.yaml", f"{group.replace('/', '.')}.") | meanings
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
            inside = f"{prefix}{node}." if node and node != HERE else prefix
            meanings |= of_file(file.parent / f"{name}.yaml", inside)
    root = yaml.compose(text, yaml.SafeLoader)
    return meanings | dict(_of_mapping(root, text.splitlines(), prefix)) if isinstance(root, MappingNode) else meanings


def _of_mapping(mapping: MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in mapping.value:
        words: list[str] = []
        for line in reversed(lines[: key.start_mark.line]):  # directly above; others belong to the file
            if not line.lstrip().startswith("#"):
                break
            words.insert(0, line.lstrip().lstrip("#").strip())
        inline = isinstance(value, ScalarNode) or (isinstance(value, CollectionNode) and value.flow_style)
        end = value.end_mark if inline else key.end_mark  # of the key's line, or of its value in brackets
        words += [lines[end.line][end.column :].partition("#")[2].strip()] if end.line < len(lines) else []
        if comment := " ".join(filter(None, words)):
            yield f"{prefix}{key.value}", comment
        if isinstance(value, MappingNode) and not value.flow_style:
            yield from _of_mapping(value, lines, f"{prefix}{key.value}.")
