"""``python -m dira_scale.plan experiment=dira_moco``: memory, traffic, hours and cost of a run, before it starts;
``plan finetune task=masks``: of a run of another command that trains.

The configured steps are made on tensors without memory: no data, no GPU, no other processes.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from dira_scale.cli import Function, entry
from dira_scale.command import Command
from dira_scale.commands import COMMANDS

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "plan", "estimate memory, traffic, hours and cost of a run before it starts", "dira_scale.plan.show:show_plan",
    output="plan.json",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command with the words ``argv``; return the exit code."""
    others = [name for name, row in COMMANDS.items() if row.trains and name != "pretrain"]
    return entry(COMMAND, subcommands={name: _plan_of(name) for name in others})(argv)


def _plan_of(command: str) -> Function:
    def plan(cfg: "DictConfig") -> None:
        resolve_name(COMMAND.function)(cfg, command)

    plan.__doc__ = f"Estimate a run of {command}."
    return plan
