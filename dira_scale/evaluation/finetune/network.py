"""The network that is fine-tuned, with its initial weights."""

import hashlib
from pathlib import Path

from torch import nn

from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import rank
from dira_scale.engine.preflight import DIGITS
from dira_scale.errors import UserError
from dira_scale.evaluation.finetune.config import PRETRAINED, RANDOM, Finetune, MaskTask
from dira_scale.evaluation.finetune.supervision import Supervision
from dira_scale.methods.build import check_dimensions
from dira_scale.models import norm
from dira_scale.models.layouts import StartWeights
from dira_scale.models.pyramid import TimmEncoder
from dira_scale.models.unet import UNet
from dira_scale.runs.reader import start_tensors


def build_network(config: Finetune, supervision: Supervision, views: ViewSpec) -> nn.Module:
    """With the weights of ``init``, BatchNorm converted. Raises UserError naming key and file."""
    model = config.model
    check_dimensions(model, views)
    encoder = model.build_encoder(views.size)
    network = supervision.network(model, encoder)
    if config.init != RANDOM:
        path = Path(config.init)
        if not isinstance(encoder, TimmEncoder):
            raise UserError(f"init={config.init}: only encoders of timm start from a file; use {RANDOM}")
        start = StartWeights(path, encoder, start_tensors(path))
        if isinstance(network, UNet) and isinstance(config.task, MaskTask) and config.task.decoder == PRETRAINED:
            start.fill(network)
        if rank() == 0:
            print(start)
    return norm.convert(network)


def weights_fact(init: str) -> dict[str, str]:
    """What the file ``init`` contains, which must be the same on all processes."""
    if not Path(init).is_file():
        return {}
    with Path(init).open("rb") as file:
        return {"the file init": hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]}
