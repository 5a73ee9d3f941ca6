"""Segmentation by the nearest patches: how well do maps tell what is where, with nothing trained?

As "Towards In-Context Scene Understanding" (Balažević et al., NeurIPS 2023, sec. 3.1): each cell of a map asks the k
training cells that are most alike by cosine similarity s. They vote with weight exp(s / T) for what their own cells
show, the share of each class in the cell. Votes are resized linearly to the mask. Here the bank has all training cells.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.base.machine.device import compute_device
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import MaskCase
from dira_scale.dataset.metrics.neighbours import knn_scores
from dira_scale.dataset.metrics.segmentation import mask_cases, segmentation
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.judge.evaluation.features import POOLS
from dira_scale.judge.evaluation.inference import resized
from dira_scale.judge.pages.probe_figures import Fit, ProbeFigure, figures
from dira_scale.judge.tasks.mask_values import check_evaluated
from dira_scale.judge.tasks.masks import Segmentation, within
from dira_scale.probe.probing import Parts
from dira_scale.probe.sources import StoredFeatures
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import nested_draws

READ = "train", "test"  # nothing is chosen on the validation part
KNN, DICE = "knn", "Dice"


class MaskedImages:
    """The images of a part that have a mask.

    Attributes:
        rows: of folders of their maps.
    """

    def __init__(self, dataset: ShardedDataset, split: str, rows: np.ndarray, task: Segmentation) -> None:
        """``rows`` are those of the whole ``split``. Raises UserError for masks of other classes, or none."""
        check_evaluated(dataset, split, task.classes, "name all that masks have, masks.classes={NAME: VALUE, …}")
        self._reader, self._task = SampleReader(Samples([dataset], split)), task
        every = (self._targets(sample) for sample in range(len(rows)))
        self._kept = np.flatnonzero([targets is not None and bool((targets != IGNORE).any()) for targets in every])
        self.rows = rows[self._kept]
        self.spacing = [dataset.cell("spacing", int(row)) for row in dataset.rows(split)[self._kept]]

    def targets(self) -> Iterator[Tensor]:
        """int64 [*sides] of each (:class:`Segmentation`), read anew: all of them would fill the memory."""
        yield from (targets for sample in self._kept if (targets := self._targets(int(sample))) is not None)

    def _targets(self, sample: int) -> Tensor | None:
        mask = self._reader.mask(sample)
        return None if mask is None else self._task.numbers(torch.from_numpy(mask).long())


def compare(
    cfg: DictConfig, source: StoredFeatures, dataset: ShardedDataset, rows: Parts
) -> tuple[list[ProbeFigure], dict[str, Any], list[list[MaskCase]]]:
    """Figures of the maps of ``source``, what was looked at, and the cases of each folder at the largest share.

    Raises UserError for maps of another dataset, or masks of other classes.
    """
    if dataset.hash != source.dataset.hash:
        raise UserError(f"data.shards={dataset.root} is not the dataset of {source.dataset.root}: name that one")
    task = Segmentation(None if cfg.masks.classes is None else dict(cfg.masks.classes))
    splits = dict(zip(READ, (cfg.data.split, cfg.data.test_split), strict=True))
    images = {part: MaskedImages(dataset, split, rows[part], task) for part, split in splits.items()}
    patients = source.dataset.column("patient").astype(str)[images["train"].rows]
    draws = nested_draws(patients, sorted({*cfg.fractions}, reverse=True), cfg.draws, cfg.seed)
    labelled = {fraction: float(np.mean([len(drawn) for drawn in sets])) for fraction, sets in draws.items()}
    results, cases = list[ProbeFigure](), list[list[MaskCase]]()
    for folder, of in zip(source.folders, source.described, strict=True):
        shares = [cell_labels(targets, task, folder.about.sides) for targets in images["train"].targets()]
        by_fraction = {
            fraction: [segmented(folder, images, task, shares, drawn, cfg.masks) for drawn in sets]
            for fraction, sets in draws.items()
        }
        fits = {
            (KNN, fraction): [Fit({f.key: f for f in segmentation(each) if f.metric == DICE}) for each in of_draws]
            for fraction, of_draws in by_fraction.items()
        }
        results += figures(of, [fits], labelled)
        cases.append(by_fraction[max(draws)][0])
    return results, {"labels": [*task.names], "images": {p: len(i.rows) for p, i in images.items()}}, cases


def segmented(
    folder: Embeddings, images: dict[str, MaskedImages], task: Segmentation, shares: Sequence[Tensor],
    drawn: np.ndarray, masks: DictConfig,
) -> list[MaskCase]:  # fmt: skip
    """The cases of the test images, by the cells of the ``drawn`` training images; ``shares``: the labels of the cells
    of each."""
    device, (train, test) = compute_device(), (images[part] for part in READ)
    bank = torch.from_numpy(folder.values[train.rows[drawn]]).flatten(2).transpose(1, 2).flatten(0, 1).to(device)
    labels = torch.cat([shares[number] for number in drawn])
    cases = list[MaskCase]()
    for row, targets, spacing in zip(test.rows, test.targets(), test.spacing, strict=True):
        queries = torch.from_numpy(folder.values[row]).flatten(1).T
        votes = knn_scores(bank, labels, queries, masks.k, masks.temperature).cpu().nan_to_num()
        predicted = resized(votes.T.unflatten(1, folder.about.sides), targets.shape)[None]
        answer, truth = (each[0] for each in task.masks(predicted, targets[None]))
        key, patient, split = (str(folder.column(name)[row]) for name in ("key", "patient", "split"))
        cases += mask_cases(key, patient, split, answer, truth, task.names, spacing)
    return cases


def cell_labels(targets: Tensor, task: Segmentation, sides: Sequence[int]) -> Tensor:
    """``targets`` [*size] -> the share of each output's class in each cell, of what is known there; NaN: nothing is.
    float32 [cells, outputs]."""
    regions = task.regions or [[number] for number in range(len(task.outputs))]
    known = (targets != IGNORE)[None, None]
    shares = torch.cat([(within(targets[None], regions) & known).float(), known.float()], 1)
    shares = POOLS[shares.dim()](shares, tuple(sides))[0].flatten(1).T
    return torch.where(shares[:, -1:] > 0, shares[:, :-1] / shares[:, -1:], torch.nan)
