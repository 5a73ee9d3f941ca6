"""Positives from the same patient, and masks cropped as their images are."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from train.data.loaders.backends import build, parameters

from dira_scale.base.errors import UserError
from dira_scale.train.data.groups import Groups
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import Blur, Jitter, ViewSpec

SPEC = ViewSpec(size=16, jitter=Jitter(p=0), blur=Blur(p=0))
PATIENTS = ["a", "b", "a", "c", "b", "a", "d", "a"]


@pytest.fixture
def flat(make_dataset):
    """Image i is grey level 10 (i + 1) everywhere, so that a view tells whose it is; its range starts at i."""
    images = [np.full((20 + i, 30), 10 * (i + 1), np.uint8) for i in range(len(PATIENTS))]
    return make_dataset(images, patients=PATIENTS, lows=[float(i) for i in range(len(PATIENTS))])


def batches(dataset, spec, order, count, **options):
    return list(CpuLoader(LoaderSpec([dataset], "train", order, spec, seed=0, **options)).iterate(0, count))


def test_the_second_view_shows_another_image_of_the_patient_where_there_is_one(flat):
    order = Order((len(PATIENTS),), seed=0, batch=8)
    seen = {i: Counter() for i in range(len(PATIENTS))}
    for batch in batches(flat, replace(SPEC, pair="patient"), order, 240):
        first, second = (view.float().mean((1, 2, 3)).div(10).round().long() - 1 for view in batch.views)
        assert torch.equal(first, batch.index) and torch.equal(torch.stack([first, second], 1), batch.images)
        assert torch.equal(batch.low, batch.images.float())
        for sample, other in zip(first.tolist(), second.tolist(), strict=True):
            seen[sample][other] += 1
    for sample, patient in enumerate(PATIENTS):
        others = {i for i, p in enumerate(PATIENTS) if p == patient} - {sample} or {sample}
        assert set(seen[sample]) == others
        assert min(seen[sample].values()) > 0.6 * 240 / len(others)  # of 80 each: 4 deviations


def test_patients_of_two_datasets_are_different_ones(make_dataset):
    images = [np.zeros((20, 20), np.uint8)] * 2
    datasets = [make_dataset(images, name=n, patients=["p", "p"]) for n in ("one", "two")]
    patients = Groups(Samples(datasets, "train"), "patient")
    everyone = np.arange(4)
    assert patients.others(everyone).tolist() == [1, 1, 1, 1]
    assert patients.other(everyone, np.zeros(4, int)).tolist() == [1, 0, 3, 2]


ROWS, COLUMNS = np.mgrid[:200, :200].astype(np.uint8)


@pytest.mark.parametrize("name", parameters())
def test_masks_are_cropped_as_their_images_by_every_loader(make_dataset, name):
    """An image whose grey level is its row's number, or its column's: the mask's pixel must lie under the image's."""
    dataset = make_dataset([ROWS, COLUMNS, ROWS], masks=[ROWS, None, COLUMNS])
    arguments = {"datasets": [dataset], "split": "train", "order": EvalOrder(3, 3), "views": replace(SPEC, size=32)}
    (batch,) = build(name, **arguments, seed=0, masks=True).iterate(0, 1)
    assert batch.mask.shape == (3, 2, 32, 32) and batch.mask.dtype == torch.int16
    assert (batch.mask[1] == IGNORE).all() and (batch.mask[[0, 2]] >= 0).all()
    for view, cropped in zip(batch.views, batch.mask[0], strict=True):
        assert (view[0, 0].int() - cropped.int()).abs().max() <= 1  # the filter's centre, and the nearest pixel
    assert batch.split(3)[0].mask.shape == (1, 2, 32, 32)
    assert next(build(name, **arguments, seed=0).iterate(0, 1)).mask is None


def test_a_value_of_255_is_not_an_unknown_one(make_dataset):
    """As published masks of lungs have it."""
    dataset = make_dataset([ROWS, ROWS], masks=[np.full_like(ROWS, 255), None])
    (batch,) = batches(dataset, SPEC, EvalOrder(2, 2), 1, masks=True)
    assert (batch.mask[0] == 255).all() and (batch.mask[1] == IGNORE).all()


def test_masks_that_cannot_be_used_are_one_error(make_dataset):
    none = make_dataset([ROWS] * 2, name="none")
    other = make_dataset([ROWS] * 2, name="other", masks=[None, ROWS[:100]])
    with pytest.raises(UserError, match=r"none: no sample in split 'train' has a mask"):
        batches(none, SPEC, EvalOrder(2, 2), 1, masks=True)
    with pytest.raises(UserError, match=r"sample other1 .* its mask: its header says 100 x 200 pixels, expected 200"):
        batches(other, SPEC, EvalOrder(2, 2), 1, masks=True)
