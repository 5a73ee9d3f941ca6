"""Start weights by one key, for any architecture: what is loaded, into which channels, under which licence."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from train.models.test_classifier import STUB, model

from dira_scale.base.errors import UserError
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.start import in_one, licence_of, start_weights

NAME = "test_resnet"


def encoder(channels: int | None = None, node: dict[str, Any] | None = None) -> Encoder:
    return architecture(node or model(NAME)).build_encoder(64, channels).eval()


def file(path: Path, channels: int = 3) -> Path:
    torch.manual_seed(0)
    save_file(timm.create_model(NAME, num_classes=5, in_chans=channels).state_dict(), path)
    return path


@pytest.mark.parametrize(("stored", "channels"), [(3, 1), (3, 4), (3, 6), (1, 3), (1, 4)])
def test_a_stem_of_other_channels_sees_a_grey_image_alike(tmp_path: Path, stored: int, channels: int) -> None:
    """Equal to timm's own conversion; the features are those of the file's network if the turns are complete."""
    path, grey = file(tmp_path / "w.safetensors", stored), torch.rand(2, 1, 64, 64)
    same, other = encoder(stored), encoder(channels)
    for network in (same, other):
        assert start_weights(str(path), network) is not None
    if channels == 1 or channels % stored == 0:
        for expected, actual in zip(same(grey)[1:], other(grey)[1:], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    if stored == 3:
        weight = same.state_dict()["model.conv1.0.weight"]
        theirs = timm.models.adapt_input_conv(channels, weight)
        torch.testing.assert_close(other.state_dict()["model.conv1.0.weight"], theirs)


def test_a_network_in_depth_starts_from_its_own_names(tmp_path: Path) -> None:
    """Encoder and decoder, without the head of the old task; of four modalities from one."""
    built = architecture(STUB)
    torch.manual_seed(1)
    trained = built.build_network(built.build_encoder((8, 8, 8)))
    save_file({f"method.{name}": tensor for name, tensor in trained.state_dict().items()}, tmp_path / "w.safetensors")
    network = built.build_network(built.build_encoder((8, 8, 8), 4), classes=2)
    start = start_weights(str(tmp_path / "w.safetensors"), network.encoder, network)
    assert start is not None and [part.split()[0] for part in start.loaded] == ["encoder", "decoder"]
    volume = torch.rand(1, 1, 8, 8, 8)
    for whole in (trained, network):
        whole.eval()
    torch.testing.assert_close(network.decoder(network.encoder(volume)), trained.decoder(trained.encoder(volume)))
    classifier = built.build_classifier(built.build_encoder((8, 8, 8)), 2)
    start = start_weights(str(tmp_path / "w.safetensors"), classifier.encoder, classifier)
    assert start is not None and len(start.loaded) == 1


def test_an_exported_folder_is_its_file_with_the_decoder_and_says_its_licence(tmp_path: Path) -> None:
    built = architecture(STUB)
    trained = built.build_network(built.build_encoder((8, 8, 8)))
    save_file(trained.encoder.state_dict(), tmp_path / "plain_encoder.safetensors")
    save_file(trained.state_dict(), tmp_path / "plain_network.safetensors")
    (tmp_path / "README.md").write_text('---\nlicense: other\nlicense_name: "CC-BY-4.0 and \\"ours\\""\n---\n')
    network = built.build_network(built.build_encoder((8, 8, 8)))
    start = start_weights(str(tmp_path), network.encoder, network)
    assert start is not None and start.path.name == "plain_network.safetensors"
    assert start.licence == licence_of(tmp_path / "plain_encoder.safetensors") == 'CC-BY-4.0 and "ours"'
    (tmp_path / "README.md").unlink()
    assert licence_of(tmp_path / "plain_encoder.safetensors") is None
    assert in_one(["MIT", "CC-BY-4.0 and MIT", "unknown"]) == "MIT and CC-BY-4.0 and unknown"


@pytest.mark.parametrize(
    ("name", "front", "licence"),
    [
        ("model.safetensors", "license: other\nlicense_name: mit\nlicense_link: LICENSE", "mit"),  # RAD-DINO's card
        ("model.safetensors", "tags:\n- dino\nlicense: apache-2.0", "apache-2.0"),  # timm's
        ("model.safetensors", "license: other", None),
        ("model.safetensors", "tags: []\n---\nlicense: mit", None),
        ("model.safetensors", "license_name: '[&a [x, x], [*a, *a]]'", "[&a [x, x], [*a, *a]]"),
        ("model.safetensors", 'license_name: "mit" or "bsd"', '"mit" or "bsd"'),
        ("dinov2_vitb14_reg4_pretrain.pth", None, "apache-2.0"),
        ("dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth", None, "dinov3-license"),
        ("dinov2_vitb14_pretrain.pth", "license: mit", "mit"),
        ("dinov2_vitb14_mine.pth", None, None),
    ],
)
def test_a_published_files_licence_is_its_cards_or_its_authors(
    tmp_path: Path, name: str, front: str | None, licence: str | None
) -> None:
    if front is not None:
        (tmp_path / "README.md").write_text(f"---\n{front}\n---\n\nlicense: gpl\n")
    assert licence_of(tmp_path / name) == licence


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (model("resnet18"), r"^init: .*w.safetensors: is not of resnet18 in any known layout .* is missing"),
        (STUB, r"^init: .*w.safetensors: is of a network of images, and tiny3d is one of volumes"),
    ],
)
def test_weights_of_another_backbone_name_the_key(tmp_path: Path, node: dict[str, Any], message: str) -> None:
    path = file(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        start_weights(str(path), encoder(node=node))


def test_a_folder_that_is_no_run_and_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^init: .*: neither a run's folder nor one that export wrote"):
        start_weights(str(tmp_path), encoder())
    with pytest.raises(UserError, match=r"^init: .*nothing.pth: no such file"):
        start_weights(str(tmp_path / "nothing.pth"), encoder())
