"""Classifiers and segmentation of several classes: equal to timm's and smp's networks with the same weights."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import tiny_swin  # noqa: F401  # registers itself
import torch
from models.stub3d import TARGET

from dira_scale.models.architecture import architecture
from dira_scale.models.encoder import timm_names
from dira_scale.models.pyramid import TimmEncoder
from dira_scale.models.timm_head import timm_head_names

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
