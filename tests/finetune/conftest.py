"""A toy dataset: discs on noise, whose masks and labels can be learned."""

from pathlib import Path

import numpy as np
import pytest
from dataset.conftest import make_dataset, maker
from train.data.volumes import WORDS

__all__ = ["discs", "make_dataset"]
NAMES = ("bright", "coin")
# Of a tiny run on it.
TINY = [
    "data.size=32", "data.batch=8", "data.workers=1", "model.encoder=test_resnet", "precision=fp32", "log_every=1",
    "model.decoder_channels=[32,16,16,8,8]", "parallel.threads=1", "validate.batch=8", "stages.finetune.epochs=2",
    "init=random",
]  # fmt: skip
# The same of the toy network of volumes.
TINY_VOLUMES = [
    *(word for word in TINY if not word.startswith(("model", "data.size", "data.batch"))),
    *(word for word in WORDS if not word.startswith(("method", "views", "~model.decoder"))),
    "~model.decoder_channels", "views=tune_volumes",
]  # fmt: skip


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on, 12 for validation, 12 for test, of 40 x 48 pixels. Half of the discs are bright; a mask
    has 1 in its disc, of a bright one 2 in its lower half. One coin of five is unknown."""
    generator = np.random.default_rng(0)
    images, masks, labels = [], [], []
    y, x = np.mgrid[:40, :48]
    for number in range(48):
        disc = (y - 20) ** 2 + (x - 24) ** 2 < generator.integers(8, 12) ** 2
        image = generator.integers(0, 60, disc.shape).astype(np.uint8)
        image[disc] += np.uint8(160 if number % 2 else 40)
        images.append(image)
        masks.append((disc * (1 + (y > 20) * (number % 2))).astype(np.uint8))
        labels.append([float(number % 2), np.nan if number % 5 == 0 else float(generator.integers(2))])
    splits = ["train"] * 24 + ["val"] * 12 + ["test"] * 12
    made = maker(tmp_path_factory.mktemp("toy"))
    return made(images, label_names=NAMES, masks=masks, labels=labels, splits=splits, name="discs").root
