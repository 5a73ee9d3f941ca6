"""``python -m dira_scale.plan experiment=dira_moco``: memory, traffic, hours and cost of a run, before it starts;
``plan finetune task=masks``: of a run of another command that trains.

The configured steps are made on tensors without memory: no data, no GPU, no other processes.
"""

from functools import partial
from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command
from dira_scale.commands import COMMANDS

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "plan", "estimate memory, traffic, hours and cost of a run before it starts", output="plan.json",
)  # fmt: skip


def plan(cfg: "DictConfig", command: str = "pretrain") -> None:
    """Print what a run of ``command`` needs."""
    from dira_scale.plan.show import show_plan

    show_plan(command, cfg)


def main(argv: list[str] | None = None) -> int:
    """Run the command with the words ``argv``; return the exit code."""
    others = [name for name, row in COMMANDS.items() if row.trains and name != "pretrain"]
    return entry(COMMAND, plan, subcommands={name: partial(plan, command=name) for name in others})(argv)
