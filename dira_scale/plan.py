"""``python -m dira_scale.plan experiment=dira_moco``: memory, traffic, hours and cost of a run, before it starts;
``plan finetune task=masks``: of a run of `finetune`.

Runs the configured steps on tensors without memory: no data, no GPU, no other processes. Imports torch late, so that
a typing mistake is named within a second.
"""

import sys

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.errors import nearest

FINETUNE = "finetune"  # the one subcommand


def pretrain(cfg: DictConfig) -> None:
    """Plan a run of `pretrain`."""
    OmegaConf.to_object(cfg)  # a wrong value is told before torch is imported
    from dira_scale.planning.commands import plan_pretrain

    plan_pretrain(cfg)


def finetune(cfg: DictConfig) -> None:
    """Plan a run of `finetune`."""
    OmegaConf.to_object(cfg)
    from dira_scale.planning.commands import plan_finetune

    plan_finetune(cfg)


def main(argv: list[str] | None = None) -> int:
    """The verb; the first word may be ``finetune``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [FINETUNE]:
        return run_verb(f"plan_{FINETUNE}", finetune, words[1:])
    if words and words[0].isalpha():
        known = nearest(words[0], [FINETUNE])
        print(f"plan: no subcommand '{words[0]}'{known or '.'} There is: {FINETUNE}", file=sys.stderr)
        return 2
    try:
        return run_verb("plan", pretrain, words)
    finally:  # --help ends by an exception
        if words in (["-h"], ["--help"]):
            print("\nalso: python -m dira_scale.plan finetune KEY=VALUE ... (finetune --help lists its keys)")


if __name__ == "__main__":
    raise SystemExit(main())
