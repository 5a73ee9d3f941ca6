"""Normalisation of images of [0, 1] by mean and deviation, where a protocol asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.constants import constant
from dira_scale.train.runs.description import NORMALISATIONS, InputDescription

IMAGENET = NORMALISATIONS["imagenet"]


def input_of(size: tuple[int, ...], normalise: str | None, window: Sequence[float] | None = None) -> InputDescription:
    """Return the input of a network that sees views of ``size``, normalised as the key ``normalise`` says; ``window``
    is ``data.range``."""
    mean_and_deviation: Mapping[str, Any] = NORMALISATIONS.get(normalise or "", {})
    return InputDescription(size, window=None if window is None else tuple(window), **mean_and_deviation)


def check_channels(normalise: str | None, channels: int) -> None:
    """Raise ArgumentError for a normalisation of three channels where the network takes another number."""
    if normalise in NORMALISATIONS and channels != 3:
        raise ArgumentError("normalise", normalise, f"a network of three channels for it, not of {channels}")


def normalised(images: Tensor, input: InputDescription) -> Tensor:
    """[b, 1 or C, *size] -> (x - mean) / deviation by channel, [b, C, *size]; unchanged where ``input`` has neither.

    A grey image is repeated: its channels have different means. Keeps the images' memory format, type and device.
    """
    if not input.mean:
        return images
    shape = (-1, *[1] * (images.dim() - 2))
    mean, deviation = (constant(tuple(values), images).view(shape) for values in (input.mean, input.deviation))
    return (images - mean) / deviation


def normalise_input(module: nn.Module, input: InputDescription) -> None:
    """From now on ``module`` takes images of [0, 1], which are normalised before its first layer."""
    if input.mean:
        module.register_forward_pre_hook(lambda _, images: (normalised(images[0], input),))
