"""The encoder: any timm backbone with a feature pyramid, under the names that segmentation_models_pytorch gives it."""

import pickle
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn

from dira_scale.errors import UserError, nearest

DEPTH = 5  # halvings from the image to the last feature map


def build_encoder(name: str, in_channels: int = 3, weights: str | None = None) -> "Encoder":
    """The timm backbone ``name`` as a feature pyramid, randomly initialised or from a local file of ``weights``.

    ``weights``: a .safetensors file, or a .pth file of plain tensors (read with ``weights_only``), under timm's own
    parameter names, as ``export`` writes it; entries for layers behind the pyramid (a classifier) are ignored.

    Raises ``UserError`` for a backbone that timm does not know or that has no pyramid, and a file that does not fit.
    """
    if name not in (known := timm.list_models()):
        raise UserError(
            f"model.encoder: timm {timm.__version__} has no backbone '{name}'{nearest(name, known)} "
            f'(list them with: python -c "import timm; print(*timm.list_models())")'
        )
    try:
        encoder = Encoder(name, pretrained=False, in_channels=in_channels, depth=DEPTH)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        raise UserError(
            f"model.encoder: '{name}' has no feature pyramid down to 1/{2**DEPTH} ({error}); "
            f"take one that has, such as resnet50 or convnext_tiny"
        ) from error
    _open_residual_branches(encoder)
    if weights is not None:
        encoder.load_state_dict(_read(Path(weights), encoder))
    return encoder


class Encoder(TimmUniversalEncoder):
    """[b, 1 or C, H, W] -> its pyramid: the image itself, then features at 1/2, 1/4, … 1/32, finest first.

    ``channels`` are the pyramid's channel counts, the image's first; a backbone whose stem starts at 1/4 has zero
    channels at 1/2. One channel is shown to the stem's C channels by a view.
    """

    @property
    def channels(self) -> list[int]:
        return list(self.out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[1] == 1:
            x = x.expand(-1, self._in_channels, -1, -1)
        features: list[Tensor] = super().forward(x)
        return features


def timm_names(encoder: Encoder) -> dict[str, str]:
    """Name in ``encoder.state_dict()`` -> name in ``timm.create_model(name, num_classes=0).state_dict()``.

    A pyramid keeps timm's names but for the dots of nested stages (``stages.0`` is ``stages_0``).
    """
    with torch.device("meta"):
        whole = timm.create_model(encoder.name, in_chans=encoder._in_channels, num_classes=0)
    theirs = {name.replace("_", "."): name for name in whole.state_dict()}
    return {name: theirs[name.removeprefix("model.").replace("_", ".")] for name in encoder.state_dict()}


def _open_residual_branches(encoder: nn.Module) -> None:
    """Start the last BatchNorm of each residual block at 1, where timm starts it at 0.

    MoCo's encoder starts as torchvision's ResNet does, without zero-initialised residual branches.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine and not layer.weight.any():
            nn.init.ones_(layer.weight)


def _read(path: Path, encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's state from a file under timm's names; ``UserError`` naming the file where it does not fit."""
    key = f"model.weights: {path}"
    if not path.is_file():
        raise UserError(f"{key}: no such file; name a local .safetensors or .pth file")
    try:
        is_safetensors = path.suffix == ".safetensors"
        stored = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{key}: cannot be read as plain tensors ({reason}); save a state_dict") from error
    if not isinstance(stored, dict):
        raise UserError(f"{key}: holds a {type(stored).__name__}, not a state_dict of tensors")
    state = {}
    for ours, theirs in timm_names(encoder).items():
        if theirs not in stored:
            raise UserError(
                f"{key}: '{theirs}' is missing{nearest(theirs, map(str, stored))}; is it of {encoder.name}?"
            )
        expected, found = encoder.state_dict()[ours].shape, getattr(stored[theirs], "shape", None)
        if expected != found:
            raise UserError(f"{key}: '{theirs}' has shape {found}, {encoder.name} needs {tuple(expected)}")
        state[ours] = stored[theirs]
    return state
