"""``python -m dira_scale.shard recipe=NAME out=FOLDER``: images into shards; ``shard SUBCOMMAND``: work with shards."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "shard", "convert medical images into shards",
    function="dira_scale.shard.commands:convert_archive", look=("dira_scale.shard.commands:check_paths",),
    output="out", in_sweeps=True, also_in_sweeps=("shard subset", "shard merge", "shard balance"), parts=True,
    slices=True, torch=False, execution=("workers",), check="dira_scale.shard.commands:check",
    subcommands={"list": "dira_scale.shard.commands:list_archive"} | {
        name: f"dira_scale.shard.commands:{name}"
        for name in ("plan", "repair", "verify", "subset", "merge", "convert", "audit", "stats", "balance")
    },
)  # fmt: skip

main = entry(COMMAND)
