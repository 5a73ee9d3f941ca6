"""The view of a network on a label in an image: its map, the boxes around the map's regions, and a picture of both."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import cycle
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
from dira_scale.judge.evaluation.inference import Stored, held_out_crops, read_ahead
from dira_scale.localize.cases import BoxedImage
from dira_scale.localize.results import LocatedBox
from dira_scale.train.data.geometry.fixed import FixedCrop
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.models.network import Network, moved
from dira_scale.train.models.normalise import input_of, normalised
from dira_scale.train.runs.description import InputDescription

with lazy_imports():
    from matplotlib import figure as mpl_figure
    from matplotlib import patches
    from monai import visualize
    from monai.transforms import utils

INCHES, DPI = 4, 96  # of the picture's height
Colour = tuple[int, int, int]
TRUE, PREDICTED = (90, 220, 90), {"yellow": (255, 210, 60), "blue": (80, 170, 255)}  # of the intensities in turn
OPAQUE = 0.45  # the map, where it is 255


class GradCam(nn.Module):
    """Maps from the gradients at the coarsest map, a ResNet's layer4, of a classifier in evaluation mode.

    ``probabilities``: of its logits [b, L].
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


def boxes_above(intensity: float, map: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """The boxes [k, 2 n] around the connected regions of ``map`` [*size] that are above ``intensity``, in pixels of the
    image of which the map shows the part ``crop`` [2 n].

    Pixels that touch at a corner are connected: 8 neighbours in an image, 26 in a volume.
    """
    n = map.ndim
    labelled, _ = ndimage.label(map > intensity, np.ones((3,) * n))
    edges = [[(side.start, side.stop) for side in part] for part in ndimage.find_objects(labelled)]
    starts, stops = np.moveaxis(np.array(edges, float).reshape(-1, n, 2), 2, 0)
    scale = crop[n:] / np.array(map.shape, float)
    return np.concatenate((crop[:n] + starts * scale, (stops - starts) * scale), 1)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The intersection over union [k] of ``box`` [2 n] with each of ``boxes`` [k, 2 n]."""
    n = len(box) // 2
    starts, ends = np.maximum(box[:n], boxes[:, :n]), np.minimum(box[:n] + box[n:], boxes[:, :n] + boxes[:, n:])
    common = (ends - starts).clip(0).prod(1)
    return np.asarray(common / (box[n:].prod() + boxes[:, n:].prod(1) - common))


@dataclass(frozen=True)
class LocatedLabel:
    """The map of one label in an image, float64 [*size] from 0 to 255; the part ``crop`` [2 n] of the stored image that
    it shows; ``predicted``: by intensity the boxes [k, 2 n] around its regions, in pixels of the stored image."""

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
        self.cam = GradCam(network, input_of(trained.size, trained.about["normalise"]), trained.supervision.predicted)

    def views(self, cases: Iterable[BoxedImage], workers: int) -> Iterator[tuple[BoxedImage, Stored, Tensor]]:
        """Images, and as the network sees them, float32 [C, *size] in [0, 1]. Raises UserError for a damaged one."""
        read = partial(view_of, self.reader, self.trained.stored, self.crop, self.trained.size)
        yield from read_ahead(read, cases, workers, self.device)

    def look(self, stored: Stored, view: Tensor, label: str) -> LocatedLabel:
        map, probability = self.cam.of(view.to(self.device), self.trained.supervision.outputs.index(label))
        step = None if stored.step is None else np.array([stored.step])
        crop = self.crop.of(np.array([stored.sides]), step).box[0].astype(float)
        return LocatedLabel(map, probability, crop, {each: boxes_above(each, map, crop) for each in self.intensities})


def view_of(
    reader: SampleReader, seen: Mapping[str, Any], crop: FixedCrop, size: tuple[int, ...], case: BoxedImage
) -> tuple[BoxedImage, Stored, Tensor]:
    stored = Stored.of(reader, case.sample).seen(**seen)
    try:
        return case, stored, stored.view(crop, size)
    except DecodeError as error:
        raise reader.samples.damaged(case.sample, error) from error


def draw(view: Tensor, seen: LocatedLabel, rows: Sequence[LocatedBox]) -> bytes:
    """A PNG of ``view`` [C, *size] in [0, 1], in pixels of the stored image; of a volume the slice in the middle of the
    first box.

    ``rows``: of the same image and label.
    """
    map, (start, extent) = seen.map, np.split(seen.crop, 2)
    image = (view.movedim(0, -1) if map.ndim == 2 and len(view) == 3 else view.mean(0)).numpy()
    true: list[tuple[Colour, Sequence[float]]] = [(TRUE, row.box) for row in rows]
    predicted = zip(cycle(PREDICTED.values()), seen.predicted.values(), strict=False)
    marked = true + [(colour, box) for colour, boxes in predicted for box in boxes]
    if map.ndim == 3:
        thickness = extent[0] / len(map)
        depth = int(((rows[0].box[0] + rows[0].box[3] / 2 - start[0]) / thickness).clip(0, len(map) - 1))
        image, map, front = image[depth], map[depth], start[0] + depth * thickness
        true, marked = (
            [(colour, box) for colour, box in of if box[0] < front + thickness and box[0] + box[3] > front]
            for of in (true, marked)
        )
    (top, left), (height, width) = start[-2:], extent[-2:]
    place = left, left + width, top + height, top
    figure = mpl_figure.Figure((2 * INCHES * width / height, INCHES + 0.5), DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, boxes in zip(axes, (true, marked), strict=True):
        axis.set_axis_off()
        axis.imshow(image, "gray", vmin=0, vmax=1, extent=place, interpolation="bilinear")
        for colour, box in boxes:
            (y, x), (h, w) = (side[-2:] for side in np.split(np.array(box), 2))
            line = {"edgecolor": np.divide(colour, 255), "linewidth": 1.5, "antialiased": False, "zorder": 3}
            axis.add_patch(patches.Rectangle((x, y), w, h, fill=False, **line))
    axes[1].imshow(map, "turbo", vmin=0, vmax=255, alpha=OPAQUE * map / 255, extent=place, interpolation="bilinear")
    levels = ", ".join(f"{name} above {level:g}" for name, level in zip(cycle(PREDICTED), seen.predicted, strict=False))
    figure.suptitle(
        f"{rows[0].label}: probability {rows[0].probability:.2f}, IoU {max(row.iou for row in rows):.2f}\n"
        f"green: box; {f'regions {levels}' if rows[0].regions else 'no region'}", fontsize=9
    )  # fmt: skip
    encoded = BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
