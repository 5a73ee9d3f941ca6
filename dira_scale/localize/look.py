"""The view of a network on a label in an image: its map, and the boxes around the map's regions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from etils.epy import lazy_imports
from scipy import ndimage
from torch import Tensor, nn

from dira_scale.base.machine.device import compute_device
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.judge.evaluation.config import CENTRE
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.evaluation.inference import Stored, held_out_crops
from dira_scale.localize.cases import BoxedImage
from dira_scale.localize.results import LocatedBox
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.models.network import Network, moved
from dira_scale.train.models.normalise import input_of, normalised
from dira_scale.train.runs.description import InputDescription

with lazy_imports():
    from monai import visualize
    from monai.transforms import utils


class GradCam(nn.Module):
    """The maps of a classifier, which is in evaluation mode, of images [b, C, *size] in [0, 1].

    Args:
        probabilities: of its logits [b, L].

    Attributes:
        map: passes on the encoder's coarsest map, a ResNet's layer4, where its gradients can be had.
        logits: [b, L] of the last images.
    """

    logits: Tensor

    def __init__(self, network: Network, input: InputDescription, probabilities: Callable[[Tensor], Tensor]) -> None:

        super().__init__()
        self.network, self.input, self.probabilities, self.map = network, input, probabilities, nn.Identity()
        scaled = partial(utils.rescale_array, minv=0.0, maxv=255.0, dtype=torch.float64)  # MONAI's own turns it round
        self.cam: Any = visualize.GradCAM(self, "map", postprocessing=scaled)

    def forward(self, images: Tensor) -> Tensor:
        pyramid = self.network.encoder(normalised(images, self.input))
        self.logits = self.network.head(self.map(self.network.decoder(pyramid)))
        return self.logits

    def of(self, image: Tensor, output: int) -> tuple[np.ndarray, float]:
        """Map ``image`` [C, *size] in [0, 1] for one of the network's outputs, by its logit.

        Returns the map, float64 [*size] from 0 to 255, resized linearly to the image's sides before it is scaled (all 0
        where nothing speaks for the label), and the output's probability.
        """
        map = self.cam(image[None], class_idx=output)[0, 0]
        return map.detach().cpu().numpy(), float(self.probabilities(self.logits.detach())[0, output])


def regions(map: np.ndarray, intensity: float) -> np.ndarray:
    """The boxes [k, 2 n] around the connected regions of ``map`` [*size] that are above ``intensity``, in its pixels.

    Pixels that touch at a corner are connected: 8 neighbours in an image, 26 in a volume.
    """
    labelled, _ = ndimage.label(map > intensity, np.ones((3,) * map.ndim))
    parts = ndimage.find_objects(labelled)
    boxes = [[side.start for side in part] + [side.stop - side.start for side in part] for part in parts]
    return np.array(boxes, float).reshape(-1, 2 * map.ndim)


def in_stored(boxes: np.ndarray, crop: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """``boxes`` [k, 2 n] in pixels of a view of ``size``, which shows the box ``crop`` [2 n] of an image, in the
    image's pixels."""
    n = len(size)
    scale = crop[n:] / np.array(size, float)
    return np.concatenate((crop[:n] + boxes[:, :n] * scale, boxes[:, n:] * scale), 1)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The intersection over union [k] of ``box`` [2 n] with each of ``boxes`` [k, 2 n]."""
    n = len(box) // 2
    starts, ends = np.maximum(box[:n], boxes[:, :n]), np.minimum(box[:n] + box[n:], boxes[:, :n] + boxes[:, n:])
    common = (ends - starts).clip(0).prod(1)
    union = box[n:].prod() + boxes[:, n:].prod(1) - common
    return np.asarray(common / union)


@dataclass(frozen=True)
class LocatedLabel:
    """The map and boxes of one label in an image.

    Attributes:
        map: float64 [*size] of the view, from 0 to 255.
        crop: [2 n], the part of the stored image that the view shows.
        predicted: by intensity the boxes [k, 2 n] around the map's regions above it, in pixels of the stored image.
    """

    map: np.ndarray
    probability: float
    crop: np.ndarray
    predicted: Mapping[float, np.ndarray]

    def row(self, case: BoxedImage, label: str, box: np.ndarray) -> LocatedBox:
        """The predicted box that overlaps ``box`` most."""
        boxes = np.concatenate([*self.predicted.values()])
        sources = np.repeat([*self.predicted], [len(of) for of in self.predicted.values()])
        shares = overlap(box, boxes)
        about = case.key, case.patient, label, tuple(box.tolist()), self.probability, len(boxes)
        if not shares.any():
            return LocatedBox(*about, 0.0, None, None)
        best = shares.argmax()
        return LocatedBox(*about, float(shares[best]), float(sources[best]), tuple(boxes[best].tolist()))


class Localizer:
    """A fine-tuned network and the images of a split. The whole image is resized to what was trained on; of a volume
    that was cropped in voxels, its middle is seen, as in the run's evaluation. Computed in fp32.

    Raises UserError for volumes that are smaller than that, and for a network of other dimensions.
    """

    def __init__(self, trained: TrainedRun, dataset: ShardedDataset, split: str, intensities: Sequence[float]) -> None:
        self.trained, self.intensities, self.reader = trained, intensities, SampleReader(Samples([dataset], split))
        trained.require_fit(self.reader.samples)
        (self.crop,) = held_out_crops(trained.size, CENTRE, 1.0)
        self.device = compute_device()
        set_fp32("fp32")
        moved(network := trained.network, self.device, trained.faster_last(self.device))
        input = input_of(trained.size, trained.about["normalise"])
        self.cam = GradCam(network, input, trained.supervision.predicted)

    def view(self, case: BoxedImage) -> tuple[Stored, Tensor]:
        """The image, and as the network sees it, float32 [C, *size] in [0, 1]. Raises UserError for a damaged one."""
        stored = Stored.of(self.reader, case.sample).seen(**self.trained.stored)
        try:
            return stored, stored.view(self.crop, self.trained.size)
        except DecodeError as error:
            raise self.reader.samples.damaged(case.sample, error) from error

    def look(self, stored: Stored, view: Tensor, label: str) -> LocatedLabel:
        map, probability = self.cam.of(view.to(self.device), self.trained.supervision.outputs.index(label))
        step = None if stored.step is None else np.array([stored.step])
        crop = self.crop.of(np.array([stored.sides]), step).box[0].astype(float)
        boxes = {above: in_stored(regions(map, above), crop, self.trained.size) for above in self.intensities}
        return LocatedLabel(map, probability, crop, boxes)
