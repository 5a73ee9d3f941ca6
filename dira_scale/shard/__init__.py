"""``python -m dira_scale.shard recipe=NAME out=FOLDER``: images into shards; ``shard SUBCOMMAND``: work with shards."""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "shard", "convert medical images into shards", output="out", in_sweeps=True, parts=True, slices=True,
    execution=("workers",), check="dira_scale.shard.commands:check",
    subcommands={
        "plan": "dira_scale.shard.commands:plan",
        "repair": "dira_scale.shard.commands:repair",
        "verify": "dira_scale.shard.commands:verify",
        "subset": "dira_scale.shard.commands:subset",
        "merge": "dira_scale.shard.commands:merge",
        "convert": "dira_scale.shard.commands:convert",
        "audit": "dira_scale.shard.commands:audit",
        "stats": "dira_scale.shard.commands:stats",
    },
)  # fmt: skip


def shard(cfg: "DictConfig") -> int:
    """Convert the images of ``recipe`` into the dataset ``out``; return the exit code."""
    from dira_scale.shard.commands import convert_archive

    return convert_archive(cfg)


main = entry(COMMAND, shard)
