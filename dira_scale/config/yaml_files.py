"""YAML files of somebody else, before Hydra reads them: a kilobyte of aliases may stand for a terabyte of lists."""

from pathlib import Path

import yaml

from dira_scale.errors import UserError

LARGEST = 2**20  # bytes of a file
MOST = 10**5  # entries, once every alias is written out


def check_folder(folder: Path) -> None:
    """Raises UserError, naming the file, for one that is no YAML, too large, too deep, or grows by its aliases."""
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            if path.stat().st_size > LARGEST:
                raise UserError(f"{path}: more than {LARGEST} bytes, which is no configuration")
            if (node := yaml.compose(path.read_text(), yaml.SafeLoader)) and _entries(node, {}) > MOST:
                raise UserError(f"{path}: more than {MOST} entries once its aliases are written out")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}") from error
        except RecursionError as error:
            raise UserError(f"{path}: too deep, or an alias that holds itself") from error


def _entries(node: yaml.Node, known: dict[int, int]) -> int:
    """Of a node and all below, aliases as often as they are used. An alias of itself never ends: RecursionError."""
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_entries(part, known) for part in parts)
    return known[id(node)]
