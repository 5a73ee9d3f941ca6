"""Small networks for PCRL's tests, and the formulas of both its forms written plainly: one branch after another."""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn
from train.methods.tiny import Facts

from dira_scale.train.data.geometry.orientation import indicator, reorient
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.c2l import MIXUP
from dira_scale.train.methods.pcrl import PCRL, PCRLReleased
from dira_scale.train.methods.shuffle import permutation, transposition
from dira_scale.train.models import norm

SIZE = 16
RELEASED = {"weights": {"di": 1.0, "re": 1.0}, "target_scale": 4.425, "shuffle": "batch"}


class Encoder(nn.Module):
    """Two strided convolutions."""

    channels, dimensions = (1, 8, 16), 2

    def __init__(self, batch_norm=False):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()

    def forward(self, x):
        y = self.norm(self.first(x)).relu()
        return [x, y, self.second(y).relu()]


class Decoder(nn.Module):
    """A convolution of the last map and one of what it gives with the middle one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(16, 8, 3, padding=1)
        self.second = nn.Conv2d(16, 8, 3, padding=1)
        self.larger = nn.Upsample(scale_factor=2)

    def forward(self, pyramid):
        y = torch.cat([self.larger(self.first(pyramid[-1])), pyramid[-2]], dim=1)
        return self.larger(self.second(y.relu()))


def method(form=PCRL, groups=1, seed=0, **settings):
    """In float64: deviations are errors, not rounding. With as many orientations a view as the form needs."""
    torch.manual_seed(seed)
    unet = SimpleNamespace(encoder=Encoder(groups > 1), decoder=Decoder(), head=nn.Conv2d(8, 1, 3, padding=1))
    views = ViewSpec(size=SIZE, orientations=settings.pop("orientations", form.orientations))
    settings = {"dim": 6, "queue": 48, "momentum": 0.9} | (RELEASED if form is PCRLReleased else {}) | settings
    return norm.convert(form(unet, views, **settings), groups).double().train()


def batch(count=4, step=0):
    """Clean and distorted views, and the batch with their orientations, two of each."""
    generator = torch.Generator().manual_seed(step)
    views = torch.rand(4, count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    drawn = torch.rand(2, count, 2, 3, generator=generator) * torch.tensor([2.0, 2.0, 4.0])
    turned = tuple(SimpleNamespace(orientations=each) for each in drawn.floor().to(torch.uint8))
    return tuple(views[:2]), tuple(views[2:]), Facts(step=step, distortions=turned)


def part(whole, samples):
    clean, distorted, facts = whole
    cut = tuple(SimpleNamespace(orientations=each.orientations[samples]) for each in facts.distortions)
    views = (tuple(view[samples] for view in pair) for pair in (clean, distorted))
    return *views, Facts(step=facts.step, distortions=cut)


class Expected(NamedTuple):
    """What a batch's formulas give."""

    contrast: torch.Tensor
    images: dict[str, tuple[torch.Tensor, torch.Tensor]]  # by branch: what the decoder makes, and its target
    keys: torch.Tensor  # that enter the queue, [b, 3, dim]
    normaliser: torch.Tensor | None = None

    @property
    def errors(self):
        return {name: ((image - target) ** 2).mean() for name, (image, target) in self.images.items()}


def formulas(model, whole):
    """What a batch's losses, images and keys must be, by the maps of the method's encoders."""
    with torch.no_grad():
        return (_released if isinstance(model, PCRLReleased) else _paper)(model, whole)


def _paper(model, whole):
    (x1, x2), distorted, facts = whole
    o, m = model.encoder(distorted[0]), _shuffled(model, distorted[1], facts.step)
    share = model.share(facts.step, 0)
    h = mixed(o, m, share)
    first, second = (each.orientations for each in facts.distortions)
    q, k = embedded(model.projector, o), embedded(model.key_projector, m)
    positive = ((q * k).sum(1) / model.temperature).exp()
    negatives = (q @ model.queue.T / model.temperature).exp().sum(1)
    images = {
        "ordinary": (restored(model, o, first[:, 0]), reorient(x1, first[:, 0])),
        "momentum": (restored(model, m, second[:, 0]), reorient(x2, second[:, 0])),
        "hybrid": (restored(model, h, first[:, 1]), reorient(share * x1 + (1 - share) * x2, first[:, 1])),
    }
    keys = torch.stack([q, k, embedded(model.projector, h)], dim=1)
    return Expected(-(positive / (positive + negatives)).log().mean(), images, keys)


def _released(model, whole):
    clean, (x1, x2), facts = whole
    step, count, training = facts.step, len(x1), model.training
    order = torch.from_numpy(permutation(count, step, MIXUP + len(model._waiting))) if training else torch.arange(count)
    mu = folded(model, step, 1) if training else 1.0

    def mixture(values):
        return mu * values + (1 - mu) * values[order]

    o, m = model.encoder(x1), _shuffled(model, x2, step)
    o2, m2 = model.encoder(mixture(x1)), _shuffled(model, mixture(x2), step)
    q, q2 = embedded(model.projector, o), embedded(model.projector, o2)
    k, k2 = embedded(model.key_projector, m), embedded(model.key_projector, m2)
    k3 = unit(mixture(model.key_projector(m[-1])))
    normaliser = model.normaliser if model.normaliser else mean_exponential(q, k, model.queue, model.temperature)
    queue, slot, contrast = model.queue.clone(), int(model.queue_pointer), torch.zeros(())
    for queries, keys in ((q, k), (q2, k2), (q2, k3)):
        contrast = contrast + plain_nce(queries, keys, queue, model.temperature, normaliser, batches=1227) / 3
        for key in keys if training else ():
            queue[slot % len(queue)] = key
            slot += 1

    first, second = (each.orientations[:, 0] for each in facts.distortions)
    target1, target2 = reorient(x1, first), reorient(x2, second)
    o[-1], m[-1] = attended(model, o, first), attended(model, m, second)
    share, mixed_share = folded(model, step, 0), folded(model, step, 2)
    clean1, clean2 = map(mixture, clean)
    images = {
        "ordinary": (decoded(model, o), target1),
        "hybrid": (decoded(model, mixed(o, m, share)), share * target1 + (1 - share) * target2),
        "mixed": (decoded(model, o2), clean1),
        "mixed_hybrid": (decoded(model, mixed(o2, m2, mixed_share)), mixed_share * clean1 + (1 - mixed_share) * clean2),
    }
    return Expected(contrast, images, torch.stack([k, k2, k3], dim=1), normaliser)


def unit(x):
    return x / (x**2).sum(1, keepdim=True).sqrt()


def embedded(projector, maps):
    return unit(projector(maps[-1]))


def attended(model, maps, orientation):
    return model.attention(maps[-1], indicator(orientation))


def decoded(model, maps):
    return model.head(model.decoder(maps)) / model.target_scale


def restored(model, maps, orientation):
    return decoded(model, [*maps[:-1], attended(model, maps, orientation)])


def mixed(first, second, share):
    """Level by level."""
    return [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]


def folded(model, step, draw):
    share = model.share(step, draw)
    return max(share, 1 - share)


def plain_nce(queries, keys, queue, temperature, normaliser, batches, epsilon=0.0):
    """Binary NCE as a loop, with the number of batches n: P = exp(s/t) / (n Z), a noise probability of 1 / n."""
    noise, total = len(queue) / batches, 0.0
    for q, k in zip(queries, keys, strict=True):
        positive = (q @ k / temperature).exp() / (batches * normaliser)
        total -= (positive / (positive + noise + epsilon)).log()
        negative = (queue @ q / temperature).exp() / (batches * normaliser)
        total -= (noise / (negative + noise + epsilon)).log().sum()
    return total / len(queries)


def mean_exponential(queries, keys, queue, temperature):
    values = [torch.cat([k[None], queue]) @ q for q, k in zip(queries, keys, strict=True)]
    return (torch.stack(values) / temperature).exp().mean()


def _shuffled(model, images, step):
    """The momentum encoder's maps, BatchNorm groups being those of the shuffled images."""
    if not model.training or norm.groups(model) == 1:
        return model.key_encoder(images)
    order = permutation(len(images), step, len(model._waiting))
    if model.shuffle.kind == "blocks":
        order = transposition(len(images), norm.groups(model))
    order = torch.from_numpy(order)
    return [level[torch.argsort(order)] for level in model.key_encoder(images[order])]
