"""A tiny encoder and views for the tests of methods, and every base of DiRA over a network of timm's."""

from types import SimpleNamespace

import torch
from torch import nn

from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.barlow import BarlowTwins
from dira_scale.train.methods.byol import BYOL
from dira_scale.train.methods.dira import DiRA
from dira_scale.train.methods.lejepa import LeJEPA
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.simclr import SimCLR
from dira_scale.train.methods.simsiam import SimSiam
from dira_scale.train.methods.swav import SwAV
from dira_scale.train.methods.vicreg import VICReg
from dira_scale.train.models import norm
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.network import Tokens
from dira_scale.train.models.unet import UNet

SIZED = ViewSpec(size=64)
BASES = {
    "moco": lambda encoder: MoCo(encoder, SIZED, dim=8, queue=16, batch_norm=True),
    "simsiam": lambda encoder: SimSiam(encoder, SIZED, dim=8, bottleneck=4),
    "barlow": lambda encoder: BarlowTwins(encoder, SIZED, dim=8, scale=0.024),
    "byol": lambda encoder: BYOL(encoder, SIZED, hidden=8, dim=8),
    "vicreg": lambda encoder: VICReg(encoder, SIZED, dim=8),
    "lejepa": lambda encoder: LeJEPA(encoder, SIZED, hidden=8, dim=8, slices=16),
}
SETTINGS = {
    MoCo: {"dim": 5, "queue": 24, "temperature": 0.2, "momentum": 0.9},
    SimSiam: {"dim": 5, "bottleneck": 3},
    BarlowTwins: {"dim": 5},
    BYOL: {"hidden": 7, "dim": 5},
    VICReg: {"dim": 5},
    SimCLR: {"dim": 5},
    LeJEPA: {"hidden": 7, "dim": 5, "slices": 16},
    SwAV: {"prototypes": 6, "hidden": 7, "dim": 5, "queue": 8},
}


class Facts(SimpleNamespace):
    """What a method reads of a batch, of images whose channels have one range."""

    def lacking(self, first, views=1):
        return None


class Tiny(nn.Module):
    """An encoder of one convolution."""

    channels = (1, 6)

    def __init__(self, batch_norm=True):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6) if batch_norm else nn.Identity()

    def forward(self, x):
        return [x, self.norm(self.stem(x))]

    def tokens(self, x, finer=True):
        return Tokens(self(x))


def method(kind, groups=2, **settings):
    torch.manual_seed(0)
    return norm.convert(kind(Tiny(batch_norm=groups > 1), SIZED, **SETTINGS[kind] | settings), groups).train()


def dira(base="moco", **options):
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet")
    return DiRA(BASES[base](encoder), UNet(encoder, (8, 8, 8, 8, 8)), **options).train()


def views(count=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, 1, 12, 12, generator=generator) for _ in range(2))


def forward(model, images, step=0):
    return model(images, images, Facts(step=step))


def assert_same_loss(model, loss, expected, name="", rtol=1e-10, slopes=1e-7):
    """Value, and gradient to each trained parameter; both graphs stay."""
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=0, msg=f"{name}: {{}}".format)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours, theirs = (
        torch.autograd.grad(each, trained, retain_graph=True, materialize_grads=True, allow_unused=True)
        for each in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=slopes, atol=1e-10)
