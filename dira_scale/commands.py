"""The commands by name: each is a folder beside this file, whose ``__init__.py`` has its row (command.py)."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from dira_scale.command import Command

NAMES = (
    "shard", "plan", "pretrain", "finetune", "probe", "embed", "predict", "evaluate", "words", "localize", "sweep",
    "export", "report", "doctor", "bench",
)  # fmt: skip


class _Rows(Mapping[str, Command]):
    """Rows by name; "shard subset" has one, too. A folder is imported when its row is asked for, and imports neither
    torch nor Hydra."""

    def __getitem__(self, name: str) -> Command:
        command, _, subcommand = name.partition(" ")
        if command not in NAMES:
            raise KeyError(name)
        row = import_module(f"dira_scale.{command}").COMMAND
        assert isinstance(row, Command)
        if not subcommand:
            return row
        return Command(name, row.help, row.subcommands[subcommand], output=row.output, torch=row.torch)

    def __contains__(self, name: object) -> bool:
        return name in NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


COMMANDS = _Rows()
