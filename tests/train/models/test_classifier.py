"""Classifiers and segmentation of several classes: equal to timm's and smp's networks with the same weights; heads and
normalisation."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import tiny_swin  # noqa: F401  # registers itself
import torch
from torchvision.transforms.v2.functional import normalize
from train.models.stub3d import TARGET

from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.encoder import timm_names
from dira_scale.train.models.heads import MLP, global_average
from dira_scale.train.models.normalise import IMAGENET, normalised
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.timm_head import timm_head_names
from dira_scale.train.runs.description import InputDescription

CLASSES = 3
CHANNELS = [32, 16, 16, 8, 8]
STUB: dict[str, Any] = {"_target_": TARGET, "width": 4, "weights": None, "bn_groups": 1}


def model(encoder: str) -> dict[str, Any]:
    unet = {"_target_": "TimmUNet", "encoder": encoder, "decoder_channels": CHANNELS}
    return unet | {"weights": None, "bn_groups": 1, "zero_init_residual": False}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "tiny_swin"])
def test_a_classifier_is_timms_network_of_that_name(name: str) -> None:
    """The norm before the linear layer, where timm has one, too."""
    built = architecture(model(name))
    torch.manual_seed(0)
    classifier = built.build_classifier(built.build_encoder(64), CLASSES).eval()
    torch.nn.init.normal_(classifier.head.fc.bias)
    encoder = classifier.encoder
    assert isinstance(encoder, TimmEncoder)
    for parameter in classifier.head.norm.parameters():
        torch.nn.init.normal_(parameter)
    heads = timm_head_names(encoder)
    assert heads is not None
    state = {theirs: classifier.encoder.state_dict()[ours] for ours, theirs in timm_names(encoder).items()}
    state |= {theirs: classifier.head.state_dict()[ours] for ours, theirs in heads.items()}
    theirs = timm.create_model(name, num_classes=CLASSES, **encoder.arguments).eval()
    theirs.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(classifier(images), theirs(images))


def test_a_classifiers_head_begins_as_in_the_published_code() -> None:
    built = architecture(model("test_resnet"))
    torch.manual_seed(0)
    head = built.build_classifier(built.build_encoder(64), 500).head
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02) and not head.fc.bias.any()


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_other_heads_than_timms_have_no_names_there(name: str) -> None:
    built = architecture(model(name))
    encoder = built.build_encoder(160 if name == "test_vit" else 64)
    assert isinstance(encoder, TimmEncoder) and timm_head_names(encoder) is None
    assert built.build_classifier(encoder, 2).eval()(torch.rand(1, 1, 160, 160)).shape == (1, 2)


def test_a_segmentation_of_several_classes_is_smps() -> None:
    built = architecture(model("test_resnet"))
    unet = built.build_network(built.build_encoder(64), CLASSES).eval()
    theirs = smp.Unet("tu-test_resnet", encoder_weights=None, decoder_channels=CHANNELS, classes=CLASSES).eval()
    theirs.load_state_dict(
        {key.replace("head.", "segmentation_head.0.", key.startswith("head.")): value
         for key, value in unet.state_dict().items()}
    )  # fmt: skip
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(unet(images), theirs(images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 8, 3, 5), (3, 512, 7, 7)])
def test_maps_are_averaged_bit_for_bit_as_by_their_two_axes(shape, layout):
    """Curves of earlier runs depend on it: another way to average may differ in the last bit."""
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    assert torch.equal(global_average(maps), maps.mean(dim=(2, 3)))


def test_a_head_takes_vectors_images_and_volumes():
    head = MLP(4, 8, 3).eval()
    vectors = torch.randn(5, 4)
    for axes in (0, 2, 3):
        maps = vectors.view(5, 4, *(1,) * axes).expand(5, 4, *(2,) * axes)
        torch.testing.assert_close(head(maps), head(vectors))


def test_grey_images_are_normalised_as_torchvision_does_their_copies() -> None:
    images = torch.rand(2, 1, 4, 5)
    expected = normalize(images.expand(-1, 3, -1, -1), [*IMAGENET["mean"]], [*IMAGENET["deviation"]])
    torch.testing.assert_close(normalised(images, InputDescription((4, 5), **IMAGENET)), expected)
    torch.testing.assert_close(normalised(images.expand(-1, 3, -1, -1), InputDescription((4, 5), **IMAGENET)), expected)


def test_volumes_of_several_channels_have_one_mean_each() -> None:
    volumes = torch.rand(2, 2, 3, 4, 5)
    actual = normalised(volumes, InputDescription((3, 4, 5), 2, mean=(0.1, 0.5), deviation=(2.0, 4.0)))
    torch.testing.assert_close(actual[:, 1], (volumes[:, 1] - 0.5) / 4)
    torch.testing.assert_close(actual[:, 0], (volumes[:, 0] - 0.1) / 2)


def test_without_means_images_stay() -> None:
    images = torch.rand(1, 1, 2, 2)
    assert normalised(images, InputDescription((2, 2))) is images
