"""PCRL in the released form, against its authors' own functions, run as they are.

``DIRA_SCALE_PCRL_CODE`` names a checkout of https://github.com/Luchixiang/PCRL, the folder that has ``pytorch/``. It
has no licence, so nothing of it is here. What it needs of a GPU and of old libraries is replaced from outside:
``.cuda()`` and apex by nothing, the old library's convolution, BatchNorm and ReLU by the new one's.

Compared: one training step after another, with the same images, T, weights, λ and μ and the same permutation. Their
images have three colours and three outputs; so has our method here, whose head is exchanged for one with three outputs.
Volumes differ by their network, whose released weights give the authors' maps (models/test_layouts.py), and by their
turns, which are theirs backwards (data/test_geometry.py).

Not compared: several GPUs (each with its own BatchNorm statistics), 16-bit precision, the order of the images, their
augmentation. Two details of theirs are set aside: an epsilon of 1e-5 in the contrast, which counts n times, n being the
number of batches in an epoch, and has no other effect (n is 1e-6 here); and the buffer of integers that keeps the
normaliser n Z, which has floating point here.
"""

import importlib
import os
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch.base.modules as smp_modules
import torch
from torch import nn
from train.methods.tiny import Facts

from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.c2l import MIXUP
from dira_scale.train.methods.pcrl import PCRLReleased
from dira_scale.train.methods.shuffle import permutation
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.unet import UNet

COUNT, SIDE, KEYS, BATCHES = 6, 32, 40, 1e-6  # images and their sides, the queue, and n
MODULES = ("models", "losses", "utils", "memory_c2l", "pcrl", "datasets")  # theirs; others may have these
OLD_LIBRARIES = {
    "apex": {"amp": SimpleNamespace(scale_loss=lambda loss, optimizer: nullcontext(loss)), "optimizers": None},
    "pretrainedmodels": {},
    "pretrainedmodels.models": {},
    "pretrainedmodels.models.torchvision_models": {"pretrained_settings": {}},
    "torchio": {},
    "torchio.transforms": {},
}
HEADS = {
    "fc1.": "projector.layers.0.",
    "fc2.": "projector.layers.2.",
    "aug_fc1.": "attention.embedding.0.",
    "aug_fc2.": "attention.embedding.2.",
}
OF_IMAGES = {
    "model.encoder.": "encoder.model.",
    "model.decoder.": "decoder.",
    "model.segmentation_head.0.": "head.",
}


@pytest.fixture(scope="module")
def authors():
    """Their modules."""
    folder = os.environ.get("DIRA_SCALE_PCRL_CODE", "")
    code = Path(folder) / "pytorch"
    if not folder or not (code / "pcrl.py").is_file():
        pytest.skip("DIRA_SCALE_PCRL_CODE names no checkout of https://github.com/Luchixiang/PCRL (that has pytorch/)")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in (*MODULES, "apex")]:
            patch.delitem(sys.modules, name)
        before = {*sys.modules}
        patch.syspath_prepend(code)
        patch.setattr(sys, "dont_write_bytecode", True)
        for name, content in OLD_LIBRARIES.items():
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        modules = SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        layers = SimpleNamespace(Conv2dReLU=conv_bn_relu, Attention=smp_modules.Attention)
        patch.setattr(modules.models.pcrl_model, "md", layers)
        yield modules
        for name in {*sys.modules} - before:
            if name.split(".")[0] in MODULES:
                del sys.modules[name]


def conv_bn_relu(channels, wanted, kernel_size, padding, use_batchnorm):
    """The old library's layers, whose convolution has no bias."""
    assert use_batchnorm
    convolution = nn.Conv2d(channels, wanted, kernel_size, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True))


@contextmanager
def as_on_a_gpu(shares=(), permutations=()):
    """Their code on the CPU, in float64, with these draws from numpy and torch."""
    shares, permutations = iter(shares), iter(permutations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cuda", lambda self: self)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        patch.setattr(np.random, "beta", lambda *_: next(shares))
        patch.setattr(torch, "randperm", lambda n: torch.as_tensor(next(permutations)))
        yield


class Pair:
    """Both methods in float64, with the same weights; what they compute in a step, by name."""

    def __init__(self, authors):
        torch.manual_seed(0)
        self.authors = authors
        self.model, self.average = (authors.models.PCRLModel(student=student).double() for student in (True, False))
        with as_on_a_gpu():
            authors.pcrl.moment_update(self.model, self.average, 0)
        self.memory = authors.memory_c2l.MemoryC2L(128, BATCHES, KEYS, 0.2).double()
        self.memory.params = self.memory.params.double()
        self.criterion, self.error = Recorded(authors.losses.NCECriterion(BATCHES)), Recorded(nn.MSELoss())
        settings = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings)

        # These images are of their scale already.
        released = {"momentum": 0.999, "weights": {"di": 1.0, "re": 1.0}, "shuffle": "batch"}
        unet, views = UNet(build_encoder("resnet18", size=SIDE)), ViewSpec(size=SIDE, orientations=1)
        unet.head = nn.Conv2d(16, 3, 3, padding=1)
        self.ours = PCRLReleased(unet, views, queue=KEYS, target_scale=1.0, **released).double().train()
        self.ours_optimizer = torch.optim.SGD([p for p in self.ours.parameters() if p.requires_grad], **settings)
        rest = self.ours.load_state_dict(self.their_state(), strict=False)
        assert not rest.unexpected_keys and set(rest.missing_keys) == {"queue_age", "normaliser"}

    @staticmethod
    def our_names(theirs):
        """Their model's state under our names."""
        renamed, state = OF_IMAGES | HEADS, {}
        for name, value in theirs.items():
            old = next(old for old in renamed if name.startswith(old))
            state[renamed[old] + name.removeprefix(old)] = value
        return state

    def their_state(self):
        """Under our names, with the momentum model's parts that ours has."""
        average = self.our_names(self.average.state_dict()).items()
        keys = {f"key_{name}": value for name, value in average if name.startswith(("encoder.", "projector."))}
        queue = {"queue": self.memory.memory, "queue_pointer": torch.tensor(self.memory.index)}
        return self.our_names(self.model.state_dict()) | keys | queue

    def step(self, step):
        """Both sides' losses, gradients, and state after the step."""
        generator = torch.Generator().manual_seed(step)
        shape = COUNT, 3, SIDE, SIDE
        clean, distorted = ([torch.randn(shape, generator=generator).double() for _ in range(2)] for _ in range(2))
        drawn = torch.rand(2, COUNT, 3, generator=generator)
        orientations = (drawn * torch.tensor([2.0, 2.0, 4.0])).floor().to(torch.uint8)
        theirs = self.their_step(step, clean, distorted, orientations)
        return theirs, self.our_step(step, clean, distorted, orientations)

    def our_step(self, step, clean, distorted, orientations):
        distortions = tuple(SimpleNamespace(orientations=each[:, None]) for each in orientations)
        terms = self.ours(tuple(clean), tuple(distorted), Facts(step=step, distortions=distortions))
        self.ours_optimizer.zero_grad()
        sum(terms.losses.values()).backward()
        seen = {f"loss {name}": loss.detach() for name, loss in terms.losses.items()}
        seen |= {f"loss {name}": value for name, value in terms.monitors.items() if name.startswith("re_")}
        trained = {name: p for name, p in self.ours.named_parameters() if p.requires_grad}
        seen |= {f"gradient {name}": p.grad.clone() for name, p in trained.items()}
        self.ours_optimizer.step()
        self.ours.after_step()
        without = "queue_age", "normaliser"
        return seen | {f"state {name}": x.clone() for name, x in self.ours.state_dict().items() if name not in without}

    def their_step(self, step, clean, distorted, orientations):
        gradients = {}
        handle = self.optimizer.register_step_pre_hook(
            lambda *_: gradients.update({name: p.grad.clone() for name, p in self.model.named_parameters()})
        )
        turned = [self.turned(x, each) for x, each in zip(distorted, orientations, strict=True)]
        loader = [(*distorted, *(images for images, _ in turned), *clean, *(vectors for _, vectors in turned))]
        shuffle = torch.randperm(COUNT, generator=torch.Generator().manual_seed(step))
        shares = [self.ours.share(step, number) for number in range(3)]
        self.criterion.seen.clear(), self.error.seen.clear()
        with as_on_a_gpu(shares, (shuffle, permutation(COUNT, step, MIXUP))):
            self.authors.pcrl.train_rep_C2L(
                0, loader, self.model, self.average, self.memory, self.criterion, self.optimizer, self.error
            )
        handle.remove()
        errors = self.error.seen
        seen = {"loss di": sum(self.criterion.seen).reshape(()) / 3, "loss re": sum(errors) / 4}
        names = "re_ordinary", "re_mixed", "re_hybrid", "re_mixed_hybrid"
        seen |= {f"loss {name}": error for name, error in zip(names, errors, strict=True)}
        seen |= {f"gradient {name}": value for name, value in self.our_names(gradients).items()}
        return seen | {f"state {name}": value.clone() for name, value in self.their_state().items()}

    def turned(self, images, orientations):
        """Their dataset's T, whose draws are ours, and its vector; it gives float32, which all images are exact in."""
        results = []
        for image, (*mirrored, quarters) in zip(images, orientations.tolist(), strict=True):
            draws = iter([*(0.9 - 0.5 * each for each in mirrored), 0.25 * quarters + 0.1])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("random.random", lambda: next(draws))  # noqa: B023
                results.append(self.authors.datasets.PCRLChestPretask.aug(None, image))
        return torch.stack([image for image, _ in results]).double(), torch.stack([v for _, v in results])


class Recorded(nn.Module):
    """A loss that remembers its values."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.seen = loss, []

    def forward(self, *given):
        value = self.loss(*given)
        self.seen.append(value.detach().clone())
        return value


def deviation(ours, theirs):
    """The distance as a share of the length."""
    ours, theirs = ours.double(), theirs.double()
    length = theirs.norm().item()
    return (ours - theirs).norm().item() / length if length else ours.norm().item()


def test_steps_are_the_authors(authors):
    """Losses, gradients of all parameters, weights, running statistics, momentum encoder, queue: three steps, in the
    third of which the queue wraps. In float64: rounding would grow."""
    pair = Pair(authors)
    for step in range(3):
        theirs, ours = pair.step(step)
        assert sum(name.startswith("gradient") for name in ours) == len(list(pair.model.parameters()))
        assert ours.keys() == theirs.keys()
        deviations = {name: deviation(ours[name], value) for name, value in theirs.items()}
        assert {name: each for name, each in deviations.items() if each > 1e-9} == {}
    assert pair.ours.queue_pointer == 3 * 3 * COUNT % KEYS < 3 * COUNT
