"""``python -m dira_scale.plan experiment=dira_moco``: memory, traffic, hours and cost of a run, before it starts;
``plan finetune task=masks``: of a run of `finetune`.

The configured steps are made on tensors without memory: no data, no GPU, no other processes.
"""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "plan", "estimate memory, traffic, hours and cost of a run before it starts", output="plan.json",
    subcommands={"finetune": "dira_scale.plan:finetune"},
)  # fmt: skip


def plan(cfg: "DictConfig") -> None:
    """Plan a run of `pretrain`."""
    from dira_scale.plan.show import plan_pretrain

    plan_pretrain(cfg)


def finetune(cfg: "DictConfig") -> None:
    """Plan a run of `finetune`."""
    from dira_scale.plan.show import plan_finetune

    plan_finetune(cfg)


main = entry(COMMAND, plan)
