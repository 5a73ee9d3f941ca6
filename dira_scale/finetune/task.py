"""Fine-tuning as a task of the engine: a network on what a task learns, then its best checkpoint on the test split."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.data.batch import UNITS
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.control import broadcast_from_main, raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine.task import Best, Detail, StagePlan, StagePosition
from dira_scale.engine.watchdog import alive
from dira_scale.evaluation.held_out_split import HeldOutSplit
from dira_scale.evaluation.judge import choose, judged, write_split
from dira_scale.evaluation.leak import NO_LEAK, Leak
from dira_scale.evaluation.results import FILE, overall, read_results
from dira_scale.finetune.config import Finetune, nevertheless
from dira_scale.finetune.description import TENSORS, chosen_rate, describe
from dira_scale.finetune.held_out import judged_batches, warn_of_test
from dira_scale.finetune.rates import forget_candidates
from dira_scale.finetune.step import Finetuning
from dira_scale.models import norm
from dira_scale.models.network import Network, moved
from dira_scale.models.normalise import input_of, normalised
from dira_scale.models.start import Start
from dira_scale.runs import checkpoint
from dira_scale.runs.description import Description
from dira_scale.runs.files import read_rows
from dira_scale.runs.folder import RunFolder
from dira_scale.runs.lora import merged
from dira_scale.storage.atomic import write_json
from dira_scale.tasks.supervision import SplitCases, Supervision
from dira_scale.training.inputs import Inputs
from dira_scale.training.schedule import few_steps, groups_of, still_falling
from dira_scale.training.task import DatasetTask
from dira_scale.training.validation import LOWEST_LOSS, HeldOutValidation


def write_results(
    config: Finetune,
    world: World,
    supervision: Supervision,
    data: Inputs,
    stage: StagePlan,
    run: RunFolder | None,
    leak: Leak | None,
    passes: int,
) -> None:
    """Evaluate the stage's best checkpoint, unless that is done. ``run`` and ``leak``: on the main process only.
    Collective.

    ``passes``: over how many batches BatchNorm's statistics were averaged.
    """
    path = raise_on_all(lambda: best_checkpoint(config, stage.name))

    def done() -> bool:
        if run is None or not (run.folder / FILE).exists():
            return False
        return bool(read_results(run.folder)["step"] == int(path.name))  # another: the disk was full then

    if broadcast_from_main(raise_on_all(done)):
        return
    network = raise_on_all(lambda: best_network(config, supervision, path))
    network = moved(network, world.device, config.parallel.channels_last)
    input, window = input_of(data.views.sides, config.normalise), config.evaluate.window_of(data.views.dimensions)

    def predicted(images: Tensor) -> Tensor:
        with world.autocast():
            return supervision.predicted(network(normalised(images, input)))

    names = {"val": config.data.val_split, "test": config.data.test_split}
    names = {name: split for name, split in names.items() if split is not None}
    splits = {name: judged_batches(config, data, f"{name}_split", world.rank, world.ranks) for name in names}
    cases, without_mask = dict[str, list[Any]](), dict[str, int]()
    for name, batches in splits.items():
        split = HeldOutSplit(
            data.datasets, SplitCases(data.datasets, str(names[name])), predicted, world.device, batches,
            input.size, data.views.stored, window, data.workers, shows=run is not None and name == "test",
        )  # fmt: skip
        cases[name] = split.cases(supervision, network)
        without_mask[name] = split.without_mask(cases[name])
        if run is not None:
            run.lease.check()
            write_split(run.folder, name, cases[name], split.pictures)
    if run is None:
        return
    chosen = choose(supervision, cases.get("val"), config.evaluate.temperature)
    seen = {"crops": config.evaluate.crops} if supervision.pooled else {"window": window, "without_mask": without_mask}
    estimated = {"norm_passes": passes} if passes else {}
    content = {"step": int(path.name), "splits": names} | judged(supervision, cases, chosen) | seen | estimated
    write_json(run.folder / FILE, content | ({} if leak is None else {"leak": asdict(leak)}), run.lease.check)


def summary(folder: Path, best: str) -> str:
    """The test split's figures over all labels or classes in a line; without one, the validation split's."""
    content = read_results(folder)
    split = next(name for name in ("test", "val") if name in content["figures"])
    words = ", ".join(figure.in_words() for figure in overall(content["figures"][split], best))
    words = words or "no figure over all labels"
    judged = "test" if split == "test" else "no test split, so by the validation"
    return f"{judged} split '{content['splits'][split]}', checkpoint of step {content['step']}: {words} ({FILE})"


def best_checkpoint(config: Finetune, stage: str) -> Path:
    """Return the folder of the stage's best checkpoint; where nothing was validated, of the newest one."""
    folder = Path(config.run)
    return checkpoint.latest(folder) if config.data.val_split is None else checkpoint.best(folder, stage)


def best_network(config: Finetune, supervision: Supervision, path: Path) -> nn.Module:
    """Return the complete network with the weights of the checkpoint in ``path``."""
    tensors, prefix = merged(checkpoint.load(path)[0]), f"{TENSORS[supervision.pooled].module}."
    size = config.data.size if isinstance(config.data.size, int) else tuple(config.data.size)
    network = supervision.network(config.model, config.model.build_encoder(size, config.channels))
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return network


AXES = {  # of volumes as they are stored, counted from the last; images are mirrored along the last alone
    "left": -1, "right": -1,
    "anterior": -2, "posterior": -2, "front": -2, "back": -2, "ventral": -2, "dorsal": -2,
    "superior": -3, "inferior": -3, "upper": -3, "lower": -3,
}  # fmt: skip


def told_apart_by_side(outputs: Sequence[str], views: ViewSpec) -> list[str]:
    """A line if classes are called after sides of an axis that ``views.flip`` mirrors: masks and labels do not change
    their names with it, and the network cannot tell these classes apart."""
    mirrored = views.entries[0].flips
    flips, found = [*mirrored], list[str]()
    for output in outputs:
        axes = {AXES[word] for word in re.findall("[a-z]+", output.lower()) if word in AXES}
        for axis in (axis for axis in axes if -axis <= len(flips) and mirrored[axis]):
            flips[axis] = 0.0
            found.append(output)
    if not found:
        return []
    shown = "0" if not any(flips) else f"[{','.join(f'{p:g}' for p in flips)}]"
    return [
        f"mirrored: views.flip makes alike what {' and '.join(dict.fromkeys(found))} tell apart: use views.flip={shown}"
    ]


class FinetuneTask(Finetuning, DatasetTask):
    """A network, built and checked, on its data (see :class:`dira_scale.engine.task.Task`).

    Args:
        start: what was loaded into the network.
        leak: whether patients that are evaluated on were trained on; on the main process.
        taken: which checkpoint of the run ``init`` it started from, in words; on the main process.
    """

    judged = True  # on the held-out splits, at its end

    def __init__(
        self,
        config: Finetune,
        world: World,
        network: Network,
        supervision: Supervision,
        stages: Sequence[StagePlan],
        data: Inputs,
        start: Start | None = None,
        leak: Leak | None = None,
        taken: str | None = None,
    ) -> None:
        super().__init__(config, world, network, supervision, data.views)
        self.start, self.leak, self.taken = start, leak, taken
        self.stages, self.data, self.tensors = stages, data, TENSORS[supervision.pooled]
        self.normalises = norm.takes_statistics(network)
        self.unit = UNITS[data.views.dimensions]
        validate = config.validate
        held_out = data.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validation: HeldOutValidation | None = None
        best = LOWEST_LOSS if validate.best == LOWEST_LOSS.metric else supervision.best
        self.best = best.metric
        if held_out is not None:
            self.validation = HeldOutValidation(
                validate.every, held_out, self.losses, world.device, [supervision.score], Best(*best)
            )

    def described(self, config: Mapping[str, Any]) -> Description:
        run = describe(config)
        licence = self.start.licence if self.start else None
        learned = (self._learned_of_all(),) if self.config.frozen else ()
        return replace(run, network=replace(run.network, licence=licence), training=(*run.training, *learned))

    def identity(self) -> dict[str, Any]:
        return (
            super().identity() | {"facts": self.supervision.facts} | ({"leak": asdict(self.leak)} if self.leak else {})
        )

    def summary(self, module: nn.Module) -> list[str]:
        parameters = sum(p.numel() for p in module.parameters()) / 1e6
        stages = ", ".join(f"{plan.name} {plan.steps}" for plan in self.stages)
        return [
            f"learns {', '.join(self.supervision.outputs)}: a network of {parameters:.1f} M parameters; steps by "
            f"stage: {stages}",
            *self.data.summary(self.stages[0]),
            *([self.start.short, Detail(self.start.summary)] if self.start else ["starts from random weights"]),
            *([self.taken] if self.taken else []),
            *(
                (Detail(line) if self.leak.verdict == NO_LEAK else line for line in self.leak.lines)
                if self.leak
                else []
            ),
            *self._frozen_lines(),
            *warn_of_test(self.config, self.data, self.supervision),
            *told_apart_by_side(self.supervision.outputs, self.data.views),
            *map(Detail, norm.spanning_lines(module, groups_of(self.config))),
            *few_steps(self.config, self.stages, nearly=1.0),
            *chosen_rate(asdict(self.config.optim), self.config.data.val_split, self.best),
            *map(Detail, self._norm_lines()),
        ]

    @torch.no_grad()
    def before_validation(self, stage: StagePlan, module: nn.Module) -> None:
        """Make BatchNorm's statistics the mean over the stage's first batches, without labels and weights as they are.

        By forward passes in training mode: torch's momentum=None. Collective.
        """
        if not (passes := self.norm_passes(stage)):
            return
        with closing(self.data.loader(stage).iterate(0, passes)) as batches:
            for stored in batches:
                alive()
                batch = stored.to(self.world.device)
                with self.world.autocast():
                    module(
                        normalised(
                            self.distort(batch.views[0], batch.distortions[0], lacking=batch.lacking(0)), self.input
                        )
                    )
        norm.commit_statistics(module, momentum=1.0)

    def norm_passes(self, stage: StagePlan) -> int:
        """Return over how many batches BatchNorm's statistics are averaged; 0 where none of it learns."""
        return self.config.validate.passes(stage.steps) if self.normalises else 0

    def _frozen_lines(self) -> list[str]:
        """Say what keeps its weights, whether these are random ones, and how many parameters are left to learn."""
        parts = [part for part in self.module.frozen if [*getattr(self.module, part).parameters()]]
        if not parts:
            return []
        random = [part for part in parts if not any(name.startswith(part) for name in self.module.settled)]
        which = "" if random == parts else f" the {' and '.join(random)}"
        weights = f",{which} of random weights" if random else ""
        but = nevertheless(self.config.trained, self.config.lora.rank)
        return [f"frozen: {' and '.join(parts)}{but}{weights}; {self._learned_of_all()}"]

    def _learned_of_all(self) -> str:
        every = sum(p.numel() for p in self.module.parameters())
        learned = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        return f"{learned:,} of {every:,} parameters are learned"

    def _norm_lines(self) -> list[str]:
        if not (passes := self.norm_passes(self.stages[0])):
            return []
        return [f"BatchNorm: statistics over {passes} training batches before each validation (validate.norm_passes)"]

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        """Say at the last step whether the training loss is still falling. On the main process."""
        if position.done < position.steps or not self.world.main:
            return []
        before, _ = read_rows(Path(self.config.run) / "metrics.jsonl", f"{self.unit}_per_second")
        losses = [each["loss"] for each in before if each["split"] == "train"] + [row["loss"]]
        if not (fall := still_falling(losses)) or self._flat(before, position.steps):
            return []
        return [
            f"the training loss still falls, by {fall:.0%} over the last third of the steps: train longer "
            f"(epoch_factor={2 * self.config.epoch_factor:g}), or at a higher rate"
        ]

    def _flat(self, rows: Sequence[Mapping[str, Any]], steps: int) -> bool:
        """Return whether the validation split's best figure came in the first two thirds of the stage's ``steps``."""
        if self.validation is None:
            return False
        metric, direction = self.validation.best
        validated = [row for row in rows if row["split"] == "val" and not math.isnan(row.get(metric, math.nan))]
        if not validated:
            return False
        sign = 1 if direction == "max" else -1
        best = max(validated, key=lambda row: (sign * row[metric], -row["step"]))
        return bool(best["step"] <= validated[-1]["step"] - steps / 3)

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> list[str]:
        """Evaluate the stage's best checkpoint on the held-out splits, once. Collective."""
        if not self.judged or (self.config.data.test_split is None and self.config.data.val_split is None):
            return []
        passes = self.norm_passes(stage)
        write_results(self.config, self.world, self.supervision, self.data, stage, run, self.leak, passes)
        raise_on_all(lambda: forget_candidates(self.config) if run is not None else None)
        return [] if run is None else [summary(run.folder, self.supervision.best.metric)]
