"""A trained network to write, and the files that a format makes of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from dira_scale.train.models.architecture import AXES, INPUT, XYZ, ZYX, architecture_metadata
from dira_scale.train.models.classifier import Classifier
from dira_scale.train.models.network import Encoder, Network
from dira_scale.train.models.tensor_files import to_safetensors
from dira_scale.train.models.translations import other_axes
from dira_scale.train.runs.description import PRODUCTS, Description


@dataclass(frozen=True)
class TrainedNetwork:
    """The part of ``run`` to export: an encoder, and the network around it if a decoder or a classifier was trained.
    ``about``: what `predict` needs to know of a fine-tuned one (``judge.evaluation.finetuned_network.about_run``)."""

    run: Description
    encoder: Encoder
    network: Network | None = None
    about: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def decoder_channels(self) -> Sequence[int]:
        return tuple(self.run.network.architecture["decoder_channels"])

    @property
    def classifier(self) -> Classifier | None:
        return self.network if isinstance(self.network, Classifier) else None

    @property
    def unet(self) -> Network | None:
        """The network, if it has a decoder."""
        return self.network if self.run.network.head == "dense" else None

    @property
    def classes(self) -> int:
        """Channels of the head."""
        return self.run.output.channels

    @property
    def number_of_classes(self) -> str:
        """An argument of smp's U-Net and of ``build_network``, as source text; empty for one channel, their default."""
        return f", classes={self.classes}" if self.classes > 1 else ""

    @property
    def result(self) -> str:
        """The name of what the network returns after ``last``, for source text."""
        if not self.run.output.names:
            return "restored"
        return "numbers" if self.run.output.normalised else "probabilities" if self.last else "outputs"

    @property
    def last(self) -> str:
        """The source text that follows the network's call, for restored images, probabilities or numbers."""
        if pairs := self.run.output.normalised:
            means, deviations = ([round(value, 6) for value in values] for values in zip(*pairs, strict=True))
            return f" * torch.tensor({deviations}) + torch.tensor({means})"
        code = {None: "", "sigmoid": ".sigmoid()", "softmax": ".softmax(1)", PRODUCTS: ".sigmoid().cumprod(1)"}
        return code[self.run.output.activation]


@dataclass(frozen=True)
class Exported:
    """Files of one format. ``code`` loads them, given an ``image`` [b, 3, S, S] or [b, C, D, H, W]; ``initial``: their
    tensors that are not trained; ``use``: what else the card says they are for."""

    files: dict[str, bytes]
    code: str
    initial: list[str] = field(default_factory=list)
    use: str = ""


def weights_file(state: Mapping[str, Tensor], run: Description, axes: str = ZYX) -> bytes:
    """A safetensors file. Its metadata has the ``run``'s architecture, what images it takes, its classes, and other
    ``axes`` than ours."""
    if axes == XYZ:
        state = {name: other_axes(name, tensor) for name, tensor in state.items()}
    classes = {"classes": json.dumps(run.output.names, ensure_ascii=False)} if run.output.names else {}
    written = {} if axes == ZYX else {AXES: axes}
    taken = {INPUT: json.dumps(asdict(replace(run.input, channels=run.network.channels)))}
    known = architecture_metadata(run.network.architecture) | taken
    return to_safetensors(state, {"format": "pt"} | known | classes | written)
