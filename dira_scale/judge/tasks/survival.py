"""Survival: the time until an event, such as death, of which many images only know that it has not come yet.

Cox's proportional hazards (J. R. Stat. Soc. B 34, 1972) with a network in the place of the linear predictor, as in
DeepSurv (Katzman et al., BMC Med. Res. Methodol. 18, 2018). Tied events share a risk set (Breslow, Biometrics 30,
1974).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from etils.epy import lazy_imports
from omegaconf import MISSING

from dira_scale.base.config.schema import one_of, setting
from dira_scale.base.errors import DatasetError
from dira_scale.dataset.metrics.cases import SurvivalCase, survival_arrays
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.statistics.weighted import Statistics, weighted_concordance
from dira_scale.dataset.metrics.survival import CONCORDANCE, survival
from dira_scale.judge.tasks.images import ImageSupervision, ImageTask, seen_images
from dira_scale.judge.tasks.task import AllReduce, Chosen, Supervision, identity
from dira_scale.train.data.labels import LabelError
from dira_scale.train.data.numbers import NumberChoice, Numbers
from dira_scale.train.runs.description import Best, Metric, Output, Term

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.inputs import Inputs
    from dira_scale.train.models.architecture import Architecture
    from dira_scale.train.models.network import Encoder, Network

with lazy_imports():
    import numpy as np
    import torch

    from dira_scale.train.distributed import collectives

COX = "cox"  # a loss term


@dataclass
class SurvivalTask(ImageTask):
    """The time until an event."""

    names_key: ClassVar[str] = "task.time and task.event"
    loss: list[str] = setting(one_of("cox"))
    time: str = MISSING
    event: str = MISSING

    def input_arguments(self) -> dict[str, Any]:
        return {"labels": NumberChoice((self.time, self.event), Times)}

    def supervision(self, data: Inputs) -> Supervision:
        assert isinstance(data.labels, Times), "asked for"
        return Survival(data.labels)

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        return Survival(Times((self.time, self.event)))

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        return self


@dataclass(frozen=True)
class Times(Numbers):
    """Two labels: the time until an event, or until an image's patient was last seen, and whether the event came."""

    def _check(self, values: np.ndarray, counts: np.ndarray, where: str, learned: bool) -> None:
        """Raise DatasetError for another event than 0 and 1, a time below 0, for labels that nobody knows, and unless
        samples that are ``learned`` can be compared."""
        time, event = self.names
        times, events = (column[~np.isnan(values).any(1)] for column in values.T)
        if not len(times):
            raise LabelError(f"{where}: '{time}' and '{event}' are never known together")
        if (wrong := events[~np.isin(events, (0, 1))]).size:
            raise DatasetError(f"{where}: event '{event}' is {wrong[0]:g}: need 1 (it came), 0 (not yet), or nothing")
        if (times < 0).any():
            raise DatasetError(f"{where}: time '{time}' is {times.min():g}: need 0 or more")
        if learned and not comparable(times, events):
            known = counts[~np.isnan(values).any(1)].sum()
            raise LabelError(
                f"{where}: of {known} samples none is known to outlive an event of '{event}', so there is nothing to "
                "learn"
            )


def comparable(times: np.ndarray, events: np.ndarray) -> bool:
    """Return whether anyone is known to outlive another's event. ``times``, ``events``: [n], NaN does not count."""
    if not (events == 1).any():
        return False
    first = np.nanmin(times[events == 1])
    return bool(((times > first) | ((times == first) & (events == 0))).any())


def partial_likelihood(risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Return Cox's negative log partial likelihood, the mean over events; 0 without one.

    For each event: log of the sum of exp(risk) over all who are known for at least as long, minus its own risk.

    Args:
        risks: [b], logarithms of hazard ratios.
        times, events: [b]; a row where one of them is NaN does not count.
    """
    event = (events == 1) & ~times.isnan()
    at_risk = (times >= times[:, None]) & ~events.isnan()  # [of each event, who]
    alone = torch.eye(len(risks), dtype=torch.bool, device=risks.device)  # rows that do not count stay finite
    sums = torch.where(at_risk | alone, risks, -torch.inf).logsumexp(1)
    return torch.where(event, sums - risks, 0.0).sum() / event.sum().clamp(min=1)


@dataclass(frozen=True)
class Survival(ImageSupervision):
    """Targets: float32 [b, 2], time and event, NaN where nobody knows. The network gives the logarithm of a hazard
    ratio: higher, earlier.

    In training the risk set is the *global* batch, whose samples all processes gather. In validation it is a batch of
    ``validate.batch``.
    """

    labels: Times
    learned, pooled = "times to an event", True
    loss_terms: ClassVar[Mapping[str, Term]] = {
        COX: Term("Partial likelihood", "negative log partial likelihood, mean over the batch's events")
    }
    best = Best(CONCORDANCE, "max")
    metrics: ClassVar[Mapping[str, Metric]] = {CONCORDANCE: Metric("Harrell's concordance", "max")}
    compared = ((CONCORDANCE, MEAN),)

    @property
    def event(self) -> str:
        return self.labels.names[1]

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"risk of {self.event}",)

    @property
    def output(self) -> Output:
        remark = "The output is a logarithm of a hazard ratio: it ranks patients, and is no probability and no time."
        return Output(names=self.outputs, remark=remark)

    def network(self, model: Architecture, encoder: Encoder) -> Network:
        """The head's bias stays 0: the likelihood does not depend on it, and Adam would follow its rounding errors."""
        network = super().network(model, encoder)
        network.head.get_parameter("fc.bias").requires_grad_(False)
        return network

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        logits = logits.float()
        if all_reduce is not identity:  # in training: who is at risk is asked of all processes
            logits, targets = collectives.gather(logits), collectives.gather(targets)
        return {COX: partial_likelihood(logits[:, 0], *targets.T)}

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.float()

    def _validated(self, targets: np.ndarray, risks: np.ndarray, index: np.ndarray) -> dict[str, float]:
        return {CONCORDANCE: survival(targets[:, 0], targets[:, 1], risks[:, 0], self.event, index)[-1].value}

    def unscored(self, data: Inputs, split: str, samples: int | None = None) -> str:
        targets = data.targets(split)[:samples].numpy()
        known = targets[~np.isnan(targets).any(1)]
        if comparable(*known.T):
            return ""
        return f"nobody is known to outlive an event of '{self.event}' among its {len(targets)} samples"

    def cases(self, predictions: Predictions) -> list[SurvivalCase]:
        return [
            SurvivalCase(key, patient, predictions.about.split, self.event, *map(float, (*target, *risk)))
            for keys, patients, targets, risks in seen_images(predictions, self.targets)
            for key, patient, target, risk in zip(keys, patients, targets, risks, strict=True)
        ]

    def figures(self, cases: Sequence[SurvivalCase], chosen: Chosen) -> list[Figure]:
        return survival(*survival_arrays(cases), self.event, [case.patient for case in cases])

    def statistics(self, cases: Sequence[SurvivalCase], chosen: Chosen) -> Statistics:
        statistic = weighted_concordance(*survival_arrays(cases))
        figures = {(CONCORDANCE, name): statistic for name in (cases[0].label, MEAN)}
        return Statistics(figures, [case.key for case in cases], [case.patient for case in cases])
