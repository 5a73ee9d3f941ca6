"""What ``data.shards`` adds to a plan: how many images, and the GPU memory of the loader that decodes there."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dira_scale.data.config import Data
from dira_scale.data.loaders.build import AUTO
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.samples import stored_codecs
from dira_scale.data.views import ViewSpec
from dira_scale.pixels.codecs import DECODED_ON_GPU
from dira_scale.training.config import StagedTraining
from dira_scale.training.inputs import Inputs
from dira_scale.training.schedule import batches_of

# Batches of views beside those made ahead: being made, its copy out of DALI's memory, on the way, in the step.
IN_USE = 4


def planned_inputs(config: StagedTraining, views: ViewSpec, ranks: int) -> tuple[int, float]:
    """Training images of an epoch, and bytes of GPU memory that the loader needs per image of a rank's batch.

    The machine that plans needs no DALI and no cache: ``data.loader=auto`` counts as it does on a GPU machine after its
    set-up.
    """
    batches = tuple(set(batches_of(config).values()))
    here = replace(config.data, loader="cpu", helper=False, cache=None, cache_size=None, missing="stop")
    inputs = Inputs(here, views, config.seed, 0, ranks, batches)
    return inputs.order.epoch_size, decoding_bytes(config.data, inputs.datasets, views)


def decoding_bytes(data: Data, datasets: Sequence[ShardedDataset], views: ViewSpec) -> float:
    """An estimate of DALI's share for each image of a batch; 0 for a loader that decodes on the CPU.

    Two batches are decoded, one that runs and one that is queued behind it: the region of all crops, at most the whole
    image, and one view's crops, on average ``views.scale`` of it. Views are kept until the step has taken them.
    """
    on_gpu = data.loader == AUTO and stored_codecs(datasets) <= set(DECODED_ON_GPU)
    if not (on_gpu or data.loader == "dali"):
        return 0.0

    def column(name: str) -> np.ndarray:
        return np.concatenate([dataset.column(name)[dataset.rows(data.split)] for dataset in datasets]).astype(float)

    pixel = column("channels").max() * column("bits").max() / 8  # bytes
    decoded = pixel * np.mean(column("height") * column("width"))
    crop = decoded * max(sum(entry.scale) for entry in views.entries) / 2
    pixels = sum(math.prod(view.sides) for view in views.each)
    return float(2 * (decoded + crop) + (data.prefetch + IN_USE) * pixel * pixels)
