"""Pretraining as a task of the engine: a method trained through its stages on its data."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dira_scale.dataset.metrics.neighbours import knn_scores, mean_auc
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.description import describe, tensors_of
from dira_scale.pretrain.diagnosis import Diagnosis
from dira_scale.pretrain.objective import PretrainLosses, restores
from dira_scale.pretrain.step import Pretraining
from dira_scale.train.data.batch import UNITS, Batch
from dira_scale.train.data.labels import UNCERTAIN
from dira_scale.train.distributed.collectives import gather, world
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import Detail, StagePlan, StagePosition
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.method import Method
from dira_scale.train.models import norm
from dira_scale.train.models.heads import global_average
from dira_scale.train.models.teacher import teachers_in
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.files import read_rows
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.remarks import no_better_than_mean, worse_features
from dira_scale.train.schedule import batches_of, few_steps, groups_of, spare_nodes
from dira_scale.train.task import DatasetTask
from dira_scale.train.validation import HeldOutValidation

if TYPE_CHECKING:
    from dira_scale.train.inputs import Inputs


IMAGES = 4096  # approximately: limits the table of similarities


class NeighbourAUC:
    """``health/knn_auc``, by the encoder's pooled features of the first view; nothing without labels or features.

    Args:
        batch: samples of a held-out batch.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, batch: Batch, losses: PretrainLosses, count: int) -> None:
        pyramids = losses.outputs.pyramids
        if batch.labels is not None and pyramids and len(self._features) * self.batch < IMAGES / world():
            self._features.append(global_average(pyramids[0][-1][:count].float()))
            self._labels.append(batch.labels[:count])

    def values(self) -> dict[str, float]:
        if not self._features:
            return {}
        auc = knn_auc(torch.cat(self._features), torch.cat(self._labels))
        return {} if math.isnan(auc) else {"health/knn_auc": auc}


def knn_auc(features: Tensor, labels: Tensor) -> float:
    """Leave-one-out kNN over all ranks' images; [n, dim] and [n, L], n may differ between ranks. Collective."""
    local = torch.cat([features, labels.float()], dim=1)
    counts = gather(torch.tensor([len(local)], device=local.device)).tolist()
    padded = local.new_zeros(max(counts), local.shape[1])
    padded[: len(local)] = local
    parts = gather(padded[None])
    images = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    features, labels = images.split([features.shape[1], labels.shape[1]], dim=1)
    of_yes_and_no = (labels.isnan() | torch.isin(labels, labels.new_tensor([0, 1, UNCERTAIN]))).all(0)
    labels = labels[:, of_yes_and_no]  # the others are numbers
    # With few images, leaving out an image's own label biases the vote against it: the AUC would fall below one half.
    k = min(20, max(1, len(features) // 10))
    return mean_auc(knn_scores(features, labels, features, k, leave_one_out=True), labels)


class WatchedValidation(HeldOutValidation):
    """Validation whose figures ``note`` gets, on every process."""

    note: Callable[[Mapping[str, float]], None]

    def means(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        row = super().means(stage, module)
        self.note(row)
        return row


class PretrainTask(Pretraining, DatasetTask):
    """A method, built and checked, on its data (see :class:`dira_scale.train.engine.task.Task`).

    Args:
        stages: the stages to train.
        taken: which checkpoint of a run it starts from, in words.
        rows: of metrics, of the run that is resumed; on the main process, which alone warns.
    """

    def __init__(
        self,
        config: Pretrain,
        world: World,
        method: Method,
        adversary: Adversary,
        stages: list[StagePlan],
        data: "Inputs",
        taken: str | None = None,
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(config, world, method, adversary)
        self.stages, self.data, self.start = stages, data, method.start
        self.diagnosis = Diagnosis(config, continues=method.start is not None)
        nodes = world.ranks // int(os.environ.get("LOCAL_WORLD_SIZE", world.ranks))
        self.spare = [] if rows else spare_nodes(config, world.ranks, nodes)  # a run keeps its batch
        for row in rows:
            if row["split"] == "val":
                self.diagnosis.held_out(row)
        self.taken, self.taught_by = taken, [teacher.summary for teacher in teachers_in(method)]
        self.adversary = adversary
        decoder = any(restores(plan.terms) for plan in stages)
        self.tensors, self.unit = tensors_of(config.method, decoder, method.state_dict()), UNITS[data.views.dimensions]
        validate = config.validate
        held_out = data.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validation: WatchedValidation | None = None
        if held_out is not None:
            scores = [partial(NeighbourAUC, validate.batch)]
            self.validation = WatchedValidation(validate.every, held_out, self.held_out_losses, world.device, scores)
            self.validation.note = self.diagnosis.held_out

    def held_out_losses(self, stage: StagePlan, module: nn.Module, batch: Batch) -> PretrainLosses:
        """Losses as in training. Monitors and features are those of views that are not corrupted, in runs that have a
        stage with such views: so the stages' figures compare."""
        losses, corrupts = self.losses(stage, module, batch), self.objective.corrupts
        if corrupts(stage.terms) and not all(corrupts(plan.terms) for plan in self.stages):
            views = self.objective.distorted(batch, stage.terms, corrupt=False)
            outputs = self.objective.forward(module, batch, views)
            losses.outputs.pyramids, losses.monitors = outputs.pyramids, outputs.monitors
        return losses

    def described(self, config: Mapping[str, Any]) -> Description:
        run, licence = describe(config), self.start.licence if self.start else None
        training = *run.training, *(f"teacher: {summary}" for summary in self.taught_by)
        return replace(run, training=training, tensors=self.tensors, network=replace(run.network, licence=licence))

    def identity(self) -> dict[str, Any]:
        assert isinstance(self.module, Method)
        terms = {term for stage in self.stages for term in stage.terms}
        groups = max(self.config.bn_groups(stage.batch) for stage in self.stages)
        return (
            super().identity()
            | self.module.identity(groups, terms)
            | {"adversary_precision_used": self.adversary.precision}
        )

    def summary(self, module: nn.Module) -> list[str]:
        assert isinstance(module, Method)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6
        several = len({plan.batch for plan in self.stages}) > 1
        stages = ", ".join(
            f"{plan.name} {plan.steps}"
            + f" of {plan.batch} images" * several
            + f" at {plan.size} pixels" * bool(plan.size)
            for plan in self.stages
        )
        return [
            f"learns without labels: a method of {parameters:.1f} M parameters; steps by stage: {stages}",
            *self.data.summary(self.stages[0]),
            *([self.start.short, Detail(self.start.summary)] if self.start else []),
            *([self.taken] if self.taken else []),
            *(Detail(f"teacher: {summary}") for summary in self.taught_by),
            *map(Detail, remarks(self.config, module)),
            *few_steps(self.config, self.stages),
            *self.spare,
        ]

    def set_progress(self, module: nn.Module, share: float) -> None:
        assert isinstance(module, Method)
        module.progress = share
        module.before_step()

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> list[str]:
        if restores(stage.terms):
            self._draw(stage, run, unsharded)
        if run is None or self.validation is None:
            return []
        from dira_scale.train.runs.reader import RunReader  # needs pyarrow

        reader = RunReader(run.folder)
        restored = [row for row in reader.restoration() if row["stage"] == stage.name]
        worse = worse_features(reader.rows(), self.validation.held_out.samples).get(stage.name)
        return [*([worse] if worse else []), *no_better_than_mean(restored)]

    def _draw(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> None:
        """Write pictures and restoration table at the end of the stage, once, on the main process."""
        method, validate = unsharded(), self.config.validate
        if run is None or (run.folder / "pictures" / f"{stage.name}.png").exists():
            return
        held_out = self.data.held_out(validate.batch, -(-validate.restored // validate.batch))
        if held_out is None:
            return
        method = method.to(self.objective.world.device)
        run.lease.check()
        with run.optional_write("pictures"):
            from dira_scale.pretrain.pictures import draw_restorations, view_spacing  # need OpenCV, scikit-image
            from dira_scale.train.data.samples import Samples

            samples = Samples(self.data.datasets, str(self.config.data.val_split))
            draw_restorations(
                run.folder / "pictures", stage, self.objective, method, held_out, validate.pictures,
                lambda index: view_spacing(self.data.held_out_views, samples.spacing(index)),
            )  # fmt: skip

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return self.diagnosis.warnings(row, position)


def rows_before(config: Pretrain, dimensions: int) -> list[dict[str, Any]]:
    """Read the rows of metrics of the run that is resumed; none of a new one. Raises UserError if they are damaged."""
    return read_rows(Path(config.run) / "metrics.jsonl", f"{UNITS[dimensions]}_per_second")[0]


def remarks(config: Pretrain, method: Method) -> list[str]:
    """Return lines on the (micro-)batches of all stages."""
    accumulate, lines = config.parallel.accumulate, dict.fromkeys(norm.spanning_lines(method, groups_of(config)))
    for name, batch in batches_of(config).items():
        groups = max(1, config.bn_groups(batch) // accumulate)
        lines |= dict.fromkeys(method.remarks(batch // accumulate, groups, config.stages[name].terms))
    return [*lines]
