"""Normalisation by mean and deviation: equal to torchvision's, in 2D and 3D."""

import torch
from torchvision.transforms.v2.functional import normalize

from dira_scale.models.normalise import IMAGENET, normalised
from dira_scale.runs.description import Input


def test_grey_images_are_normalised_as_torchvision_does_their_copies() -> None:
    images = torch.rand(2, 1, 4, 5)
    expected = normalize(images.expand(-1, 3, -1, -1), [*IMAGENET["mean"]], [*IMAGENET["deviation"]])
    torch.testing.assert_close(normalised(images, Input((4, 5), **IMAGENET)), expected)
    torch.testing.assert_close(normalised(images.expand(-1, 3, -1, -1), Input((4, 5), **IMAGENET)), expected)


def test_volumes_of_several_channels_have_one_mean_each() -> None:
    volumes = torch.rand(2, 2, 3, 4, 5)
    actual = normalised(volumes, Input((3, 4, 5), 2, mean=(0.1, 0.5), deviation=(2.0, 4.0)))
    torch.testing.assert_close(actual[:, 1], (volumes[:, 1] - 0.5) / 4)
    torch.testing.assert_close(actual[:, 0], (volumes[:, 0] - 0.1) / 2)


def test_without_means_images_stay() -> None:
    images = torch.rand(1, 1, 2, 2)
    assert normalised(images, Input((2, 2))) is images
