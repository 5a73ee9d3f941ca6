"""PCRL in the released form, against its authors' own functions, run as they are.

``DIRA_SCALE_PCRL_CODE`` names a checkout of https://github.com/Luchixiang/PCRL, the folder that has ``pytorch/``. It
has no licence, so nothing of it is here. What it needs of a GPU and of old libraries is replaced from outside:
``.cuda()`` and apex by nothing, the old library's convolution, BatchNorm and ReLU by the new one's.

Compared: one training step after another, with the same images, weights, λ and μ and the same permutation. Theirs
have three colours and three outputs; so has our method here, whose head is exchanged for one with three outputs. Where
ours has one grey channel, theirs gets it three times, and a head with three equal outputs: errors are then equal, and
ours has the sum of its three heads' gradients. Volumes have one channel on both sides; their axes, and those of
kernels, are x, y, z there and z, y, x here.

Not compared: several GPUs (each with its own BatchNorm statistics), 16-bit precision, the order of the images, their
augmentation (but for T and the cutout). Two details of theirs are set aside:

* An epsilon of 1e-5 in the contrast, which counts n times, n being the number of batches in an epoch. In float64 n is
  1e-6 here; it has no other effect.
* The normaliser n Z is kept in a buffer of integers, so its fraction is lost: at most 1 of n Z. The buffer has
  floating point here.
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

from dira_scale.data.distort import Distort
from dira_scale.data.geometry.orientation import indicator, reorient
from dira_scale.data.views import Blur, Cutout, InverseCutout, Jitter, Shuffle, ViewSpec, draw
from dira_scale.methods.pcrl import PAPER_WEIGHTS
from dira_scale.methods.pcrl_released import MIXUP, NORMALISED, PCRLReleased
from dira_scale.methods.shuffle import permutation
from dira_scale.models.encoder import build_encoder
from dira_scale.models.translations import UNET3D, translate
from dira_scale.models.unet import UNet
from dira_scale.models.volume.unet3d import UNet3DEncoder, UNet3DNetwork

SIZE, COUNT, KEYS = 32, 6, 40
VOLUME = 8, 16, 16
THEIRS = (
    "models",
    "losses",
    "utils",
    "memory_c2l",
    "pcrl",
    "pcrl_3d",
    "datasets",
)  # names of theirs that others may have too
BATCHES = {torch.float32: 2, torch.float64: 1e-6}  # n


@pytest.fixture(scope="module")
def authors():
    """Their modules."""
    folder = os.environ.get("DIRA_SCALE_PCRL_CODE", "")
    code = Path(folder) / "pytorch"
    if not folder or not (code / "pcrl.py").is_file():
        pytest.skip(
            "DIRA_SCALE_PCRL_CODE names no checkout of https://github.com/Luchixiang/PCRL (the folder of pytorch/)"
        )
    before = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.split(".")[0] in THEIRS or name.split(".")[0] == "apex"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(code)
        patch.setattr(sys, "dont_write_bytecode", True)
        amp = SimpleNamespace(scale_loss=lambda loss, optimizer: nullcontext(loss))
        settings = {"pretrained_settings": {}}
        for name, content in {
            "apex": {"amp": amp, "optimizers": None},
            "pretrainedmodels": {},
            "pretrainedmodels.models": {},
            "pretrainedmodels.models.torchvision_models": settings,
            "torchio": {},
            "torchio.transforms": {},
        }.items():
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        modules = SimpleNamespace(**{name: importlib.import_module(name) for name in THEIRS})
        layers = SimpleNamespace(Conv2dReLU=conv_bn_relu, Attention=smp_modules.Attention)
        patch.setattr(modules.models.pcrl_model, "md", layers)
        yield modules
    for name in list(sys.modules):
        if name.split(".")[0] in THEIRS:
            del sys.modules[name]
    sys.modules.update(before)


def conv_bn_relu(channels, wanted, kernel_size, padding, use_batchnorm):
    """The old library's layers, whose convolution has no bias."""
    assert use_batchnorm
    convolution = nn.Conv2d(channels, wanted, kernel_size, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True))


@contextmanager
def as_on_a_gpu(dtype, shares=(), permutations=()):
    """Their code on the CPU, in ``dtype``, with these draws from numpy and torch."""
    shares, permutations = iter(shares), iter(permutations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cuda", lambda self: self)
        patch.setattr(torch.Tensor, "float", lambda self: self.to(dtype))
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        patch.setattr(np.random, "beta", lambda *_: next(shares))
        patch.setattr(torch, "randperm", lambda n: torch.as_tensor(next(permutations)))
        yield


def memory_of(authors, dtype, batches):
    memory = authors.memory_c2l.MemoryC2L(128, batches, KEYS, 0.2).to(dtype)
    memory.params = memory.params.to(dtype)
    return memory


def our_names(theirs):
    """Their model's state under our names."""
    renamed = {
        "model.encoder.": "encoder.model.",
        "model.decoder.": "decoder.",
        "model.segmentation_head.0.": "head.",
        "fc1.": "projector.layers.0.",
        "fc2.": "projector.layers.2.",
        "aug_fc1.": "attention.embedding.0.",
        "aug_fc2.": "attention.embedding.2.",
    }
    state = {}
    for name, value in theirs.items():
        old, new = next((old, new) for old, new in renamed.items() if name.startswith(old))
        state[new + name.removeprefix(old)] = value
    return state


class Pair:
    """Both methods, with the same weights; what they compute in a step, by name."""

    code, dimensions = "pcrl", 2
    our_names = staticmethod(our_names)

    def __init__(self, authors, dtype, channels=3, size=SIZE):
        torch.manual_seed(0)
        self.size = size
        self.authors, self.dtype, self.channels = authors, dtype, channels
        self.code = getattr(authors, self.code)
        batches = BATCHES[dtype]
        self.model, self.average = (self.their_network(student).to(dtype) for student in (True, False))
        if channels == 1:
            self._tie_head()
        with as_on_a_gpu(dtype):
            self.code.moment_update(self.model, self.average, 0)
        self.memory = memory_of(authors, dtype, batches)
        self.criterion, self.error = Recorded(authors.losses.NCECriterion(batches)), Recorded(nn.MSELoss())
        settings = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings)

        # These images are of their scale already.
        settings_of_ours = {"queue": KEYS, "weights": {"di": 1.0, "re": 1.0}, "target_scale": 1.0}
        self.ours = self.our_method(**settings_of_ours).to(dtype).train()
        self.load()
        self.ours_optimizer = torch.optim.SGD([p for p in self.ours.parameters() if p.requires_grad], **settings)

    def their_network(self, student):
        return self.authors.models.PCRLModel(student=student)

    def our_method(self, **settings):
        unet = UNet(build_encoder("resnet18", size=self.size))
        unet.head = nn.Conv2d(16, self.channels, 3, padding=1)
        return PCRLReleased(unet, ViewSpec(size=self.size, orientations=1), **settings)

    def _tie_head(self):
        with torch.no_grad():
            for parameter in self.model.model.segmentation_head.parameters():
                parameter[1:] = parameter[:1]

    def load(self):
        state = self.our_names(self.model.state_dict()) | self.keys_names()
        if self.channels == 1:
            state |= {name: value[:1] for name, value in state.items() if name.startswith("head.")}
        state |= {"queue": self.memory.memory}
        rest = self.ours.load_state_dict(state, strict=False)
        assert not rest.unexpected_keys
        assert set(rest.missing_keys) == {"queue_pointer", "queue_age", "normaliser"}

    def keys_names(self):
        """Their momentum model's, of the parts that ours has."""
        state = self.our_names(self.average.state_dict()).items()
        return {f"key_{name}": value for name, value in state if name.startswith(("encoder.", "projector."))}

    def images(self, step):
        generator = torch.Generator().manual_seed(step)
        shape = COUNT, self.channels, *((self.size, self.size) if self.dimensions == 2 else self.size)
        pairs = [[torch.randn(shape, generator=generator).to(self.dtype) for _ in range(2)] for _ in range(2)]
        drawn = torch.rand(2, COUNT, 1 + self.dimensions, generator=generator)
        drawn *= torch.tensor([2.0] * self.dimensions + [4.0])
        return *pairs, drawn.floor().to(torch.uint8)

    def step(self, step):
        """Both sides' losses, gradients, and state after the step."""
        clean, distorted, orientations = self.images(step)
        return self.their_step(step, clean, distorted, orientations), self.our_step(
            step, clean, distorted, orientations
        )

    def our_step(self, step, clean, distorted, orientations):
        distortions = tuple(SimpleNamespace(orientations=each[:, None]) for each in orientations)
        terms = self.ours(tuple(clean), tuple(distorted), SimpleNamespace(step=step, distortions=distortions))
        self.ours_optimizer.zero_grad()
        sum(terms.losses.values()).backward()
        seen = {f"loss {name}": loss.detach() for name, loss in terms.losses.items()}
        seen |= {f"loss {name}": value for name, value in terms.monitors.items() if name.startswith("re_")}
        trained = {name: p for name, p in self.ours.named_parameters() if p.requires_grad}
        seen |= {f"gradient {name}": p.grad.clone() for name, p in trained.items()}
        self.ours_optimizer.step()
        self.ours.after_step()
        without = "queue_age", "normaliser"
        seen |= {f"state {name}": x.clone() for name, x in self.ours.state_dict().items() if name not in without}
        return seen

    def their_step(self, step, clean, distorted, orientations):
        gradients = {}
        handle = self.optimizer.register_step_pre_hook(
            lambda *_: gradients.update({name: p.grad.clone() for name, p in self.model.named_parameters()})
        )
        wide = [[self.their_images(x) for x in pair] for pair in (distorted, clean)]
        turned, vectors = zip(
            *(self.turned(x, each) for x, each in zip(wide[0], orientations, strict=True)), strict=True
        )
        loader = [(*wide[0], *turned, *wide[1], *vectors)]
        shuffle = torch.randperm(COUNT, generator=torch.Generator().manual_seed(step))
        mixing = permutation(COUNT, step, MIXUP)
        shares = [self.ours.share(step, number) for number in range(3)]
        self.criterion.seen.clear(), self.error.seen.clear()
        with as_on_a_gpu(self.dtype, shares, (shuffle, mixing)):
            self.code.train_rep_C2L(
                0, loader, self.model, self.average, self.memory, self.criterion, self.optimizer, self.error
            )
        handle.remove()
        contrast, errors = self.criterion.seen, self.error.seen
        names = "re_ordinary", "re_mixed", "re_hybrid", "re_mixed_hybrid"
        seen = {"loss di": sum(contrast).reshape(()) / 3, "loss re": sum(errors) / 4}
        seen |= {f"loss {name}": error for name, error in zip(names, errors, strict=True)}
        seen |= {f"gradient {name}": value for name, value in self.our_names(gradients).items()}
        state = self.our_names(self.model.state_dict()) | self.keys_names()
        state |= {"queue": self.memory.memory, "queue_pointer": torch.tensor(self.memory.index)}
        return seen | {f"state {name}": value.clone() for name, value in state.items()}

    def their_images(self, x):
        return x.expand(-1, 3, -1, -1)

    def set_aside(self, theirs, ours):
        """Nothing differs by intention."""

    def turned(self, images, orientations):
        """Their dataset's T, whose draws are ours; it gives float32, which all our images are exact in."""
        results = []
        for image, (vertical, horizontal, quarters) in zip(images, orientations.tolist(), strict=True):
            draws = iter([0.9 - 0.5 * vertical, 0.9 - 0.5 * horizontal, 0.25 * quarters + 0.1])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("random.random", lambda: next(draws))  # noqa: B023
                results.append(self.authors.datasets.PCRLChestPretask.aug(None, image))
        return (torch.stack([image for image, _ in results]).to(self.dtype), torch.stack([v for _, v in results]))


class VolumePair(Pair):
    """Both methods on volumes, at full width."""

    code, dimensions = "pcrl_3d", 3

    def __init__(self, authors, dtype):
        super().__init__(authors, dtype, channels=1, size=VOLUME)

    def _tie_head(self):
        """It has one output."""

    def their_network(self, student):
        return self.authors.models.PCRLModel3d(in_channels=1, n_class=1, student=student, norm="bn")

    def our_method(self, **settings):
        none = {name: kind(p=0) for name, kind in NOT_OF_VOLUMES.items()}
        views = ViewSpec(size=self.size, orientations=1, **none)
        return PCRLReleased(UNet3DNetwork(UNet3DEncoder()), views, bounded=True, **settings)

    @staticmethod
    def our_names(theirs):
        heads = {"fc1.": "projector.layers.0.", "fc2.": "projector.layers.2."}
        heads |= {"aug_fc1.": "attention.embedding.0.", "aug_fc2.": "attention.embedding.2."}
        state = {}
        for name, value in theirs.items():
            old = next((old for old in heads if name.startswith(old)), None)
            new = translate(name, UNET3D) if old is None else heads[old] + name.removeprefix(old)
            state[new] = backwards(value) if value.dim() == 5 else value
        return state

    def their_images(self, x):
        return backwards(x)

    def set_aside(self, theirs, ours):
        """A bias before BatchNorm has no gradient but rounding's. Their decoder's running statistics, which no step
        uses, are those of hybrid maps and then of ordinary ones, ours the other way round."""
        running = [name for name in theirs if name.startswith("state decoder.") and ".running_" in name]
        assert len(running) == 12 and all(deviation(ours.pop(name), theirs.pop(name)) < 0.05 for name in running)
        idle = [name for name in theirs if name.startswith("gradient") and name.endswith("conv.bias")]
        assert len(idle) == 14 and all(side.pop(name).abs().max() < 1e-12 for name in idle for side in (theirs, ours))

    def turned(self, volumes, orientations):
        """Quarter turns from x to y are those from y to x the other way round."""
        results = []
        for volume, (z, y, x, quarters) in zip(volumes, orientations.tolist(), strict=True):
            draws = iter([0.9 - 0.5 * mirrored for mirrored in (x, y, z)] + [0.25 * (-quarters % 4) + 0.1])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("random.random", lambda: next(draws))  # noqa: B023
                results.append(self.authors.datasets.PCRLLunaPretask.spatial_aug(None, volume.numpy()))
        return (torch.stack([volume for volume, _ in results]).to(self.dtype), torch.stack([v for _, v in results]))


NOT_OF_VOLUMES = {"blur": Blur, "cutout": Cutout, "inverse_cutout": InverseCutout, "shuffle": Shuffle}


def backwards(x):
    """Axes z, y, x as x, y, z, and the other way round."""
    return x.permute(0, 1, 4, 3, 2)


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


def worst(ours, theirs):
    """By kind (loss, gradient, state): the largest deviation and whose it is."""
    assert ours.keys() == theirs.keys()
    largest = {}
    for name, value in theirs.items():
        assert ours[name].shape == value.shape, name
        kind = " ".join(name.split()[:1]) + (" queue" if name == "state queue" else "")
        largest[kind] = max(largest.get(kind, (0.0, "")), (deviation(ours[name], value), name))
    return largest


def assert_equal(ours, theirs, tolerance, later=()):
    """``later``: other tolerances, by kind."""
    largest = worst(ours, theirs)
    print({kind: (f"{value:.1e}", name) for kind, (value, name) in largest.items()})
    tolerances = dict.fromkeys(largest, tolerance) | dict(later)
    assert {kind: each for kind, each in largest.items() if each[0] > tolerances[kind]} == {}


@pytest.mark.parametrize("kind", [Pair, pytest.param(VolumePair, marks=pytest.mark.torture)])
def test_steps_are_the_authors(authors, kind):
    """Losses, gradients of all parameters, weights, running statistics, momentum encoder, queue: three steps, in the
    third of which the queue wraps. In float64: rounding would grow. Volumes are at full width: half a minute."""
    pair = kind(authors, torch.float64)
    for step in range(3):
        theirs, ours = pair.step(step)
        gradients = [name for name in ours if name.startswith("gradient")]
        assert len(gradients) == len(list(pair.model.parameters()))
        pair.set_aside(theirs, ours)
        assert_equal(ours, theirs, 1e-9)
    assert pair.ours.queue_pointer == 3 * 3 * COUNT % KEYS < 3 * COUNT


def test_steps_in_float32_are_the_authors(authors):
    """With the real number of batches, and so with the epsilon. What the first step rounds, ReLUs near 0 enlarge in the
    gradients of the second, which float64 is there for."""
    pair = Pair(authors, torch.float32)
    assert_equal(*reversed(pair.step(0)), 1e-5)
    assert_equal(*reversed(pair.step(1)), 1e-5, {"gradient": 0.1, "state": 0.1})


def test_a_step_on_grey_images_is_the_authors_with_equal_colours(authors):
    """All parameters and losses; ours has the sum of its three heads' gradients."""
    pair = Pair(authors, torch.float64, channels=1)
    theirs, ours = pair.step(0)
    for name in list(theirs):
        if "head." in name:
            if name.startswith("gradient"):
                deviations = [deviation(theirs[name][i], theirs[name][0]) for i in range(3)]
                assert max(deviations) < 1e-9
                assert deviation(ours[name], theirs[name].sum(0, keepdim=True)) < 1e-9
            del theirs[name], ours[name]
    assert_equal(ours, theirs, 1e-9)


@pytest.mark.parametrize(("kind", "shape"), [(Pair, (3, 9, 9)), (VolumePair, (1, 4, 6, 6))])
def test_t_and_its_vector_are_the_authors(authors, kind, shape):
    """All sixteen of images, all thirty-two of volumes."""
    pair = SimpleNamespace(authors=authors, dtype=torch.float32)
    mirrored = [torch.arange(2)] * (len(shape) - 1)
    orientations = torch.cartesian_prod(*mirrored, torch.arange(4)).to(torch.uint8)
    images, axes = torch.rand(len(orientations), *shape), backwards if kind is VolumePair else torch.Tensor.clone
    turned, vectors = kind.turned(pair, axes(images), orientations)
    assert torch.equal(reorient(images, orientations), axes(turned))
    assert torch.equal(indicator(orientations), vectors.float())


def test_cutout_is_the_authors_where_centres_are_equal(authors):
    """Theirs lie within the image; of ours a 225th have theirs just beyond the lower or right edge."""
    spec = ViewSpec(
        size=224, jitter=Jitter(p=0), cutout=Cutout(p=1.0, boxes=3, side=(32, 32), stop=0.0), border=-16,
        inverse_cutout=InverseCutout(p=0.0), shuffle=Shuffle(p=0.0),
    )  # fmt: skip
    index = np.arange(40)
    params = draw(spec, 0, 0, index, 0 * index, 0, 0 * index + 224, 0 * index + 224)[1]
    params.sigma.zero_()
    images = torch.rand(40, 1, 224, 224)
    ours, compared = Distort(spec)(images, params), 0
    for i in range(40):
        corners = params.boxes[i, :3, :2]
        assert (params.boxes[i, :3, 2:] == 32).all() and params.n_boxes[i] == 3
        if (corners + 16 > 223).any():
            continue
        centres = iter((corners.long() + 16).flatten().tolist())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.random, "randint", lambda _: next(centres))  # noqa: B023
            theirs = authors.utils.Cutout(n_holes=3, length=32)(images[i])
        assert torch.equal(ours[i], theirs)
        compared += 1
    assert compared > 30


def test_the_scale_of_targets_is_that_of_normalised_images():
    """A grey error e in [0, 1] is e / σ in each normalised colour: 19.58 times the squared error on average."""
    deviations = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    assert (1 / deviations**2).mean().item() == pytest.approx(NORMALISED**2, abs=0.005)
    assert pytest.approx(PAPER_WEIGHTS["re"], abs=0.005) == 0.5 * NORMALISED**2
