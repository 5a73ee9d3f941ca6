"""Small networks for PCRL's tests, and the formulas of both its forms written plainly: numpy, one sample at a time."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from dira_scale.data.views import ViewSpec
from dira_scale.methods.pcrl import PCRL
from dira_scale.methods.pcrl_released import MIXUP, PCRLReleased
from dira_scale.methods.shuffle import permutation, transposition
from dira_scale.models import norm

SIZE = 16
CHANNELS = (1, 8, 16)


class Encoder(nn.Module):
    """Two strided convolutions."""

    channels, dimensions = CHANNELS, 2

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


def build(kind, groups=1, seed=0, batch_norm=False, orientations=2, **settings):
    """In float64: deviations are errors, not rounding."""
    torch.manual_seed(seed)
    unet = SimpleNamespace(
        encoder=Encoder(batch_norm or groups > 1), decoder=Decoder(), head=nn.Conv2d(8, 1, 3, padding=1)
    )
    settings = {"dim": 6, "queue": 48, "momentum": 0.9} | settings
    method = kind(unet, ViewSpec(size=SIZE, orientations=orientations), **settings)
    return norm.convert(method, groups).double().train()


def batch(count=4, step=0, seed=0, orientations=2):
    """Clean and distorted views, and the batch with their orientations."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    clean, distorted = (tuple(rand(count, 1, SIZE, SIZE, generator=generator) for _ in range(2)) for _ in range(2))
    drawn = [torch.rand(count, orientations, 3, generator=generator) for _ in range(2)]
    turned = [(u * torch.tensor([2.0, 2.0, 4.0])).floor().to(torch.uint8) for u in drawn]
    turned = tuple(SimpleNamespace(orientations=each) for each in turned)
    return clean, distorted, SimpleNamespace(step=step, distortions=turned)


def part(whole, samples):
    clean, distorted, facts = whole
    cut = tuple(SimpleNamespace(orientations=each.orientations[samples]) for each in facts.distortions)
    views = (tuple(view[samples] for view in pair) for pair in (clean, distorted))
    return *views, SimpleNamespace(step=facts.step, distortions=cut)


def rand(*shape, generator):
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def turned(image, orientation):
    """[S, S] mirrored top to bottom, left to right, then turned anticlockwise."""
    vertical, horizontal, quarters = (int(value) for value in orientation)
    image = np.flip(image, 0) if vertical else image
    image = np.flip(image, 1) if horizontal else image
    return np.rot90(image, quarters)


def vector(orientation):
    """vec(T)."""
    vertical, horizontal, quarters = (int(value) for value in orientation)
    result = np.zeros(6)
    result[0], result[1], result[2 + quarters] = vertical, horizontal, 1
    return result


def array(tensor):
    return tensor.detach().numpy()


def embedded(attention, orientation):
    """f_p: two fully connected layers on vec(T)."""
    first, _, second = attention.embedding
    hidden = np.maximum(array(first.weight) @ vector(orientation) + array(first.bias), 0)
    return array(second.weight) @ hidden + array(second.bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_attended(attention, features, orientation):
    """[C, H, W], each channel by its weight."""
    weights = sigmoid(embedded(attention, orientation))
    return np.stack([weight * channel for weight, channel in zip(weights, features, strict=True)])


def outer_attended(attention, features, orientation):
    """The paper's, with the outer product and W as loops."""
    f_p, channels = embedded(attention, orientation), len(features)
    f_l = [features[c].mean() for c in range(channels)]
    w = array(attention.mix.weight)
    f_q = np.zeros(channels)
    for c in range(channels):
        for i in range(channels):
            for j in range(channels):
                f_q[c] += w[c, i * channels + j] * f_p[i] * f_l[j]
    weights = sigmoid(np.maximum(f_q, 0))
    weighted = torch.from_numpy(np.stack([weights[c] * features[c] for c in range(channels)]))
    return array(attention.convolution(weighted[None])[0])


def attended(method, features, orientation):
    kind = type(method.attention).__name__
    plain = {"ChannelAttention": channel_attended, "OuterAttention": outer_attended}[kind]
    return plain(method.attention, features, orientation)


def restored(method, maps):
    """The decoder's image [S, S] of one sample's maps."""
    levels = [torch.from_numpy(np.ascontiguousarray(each))[None] for each in maps]
    return array(method.head(method.decoder(levels)))[0, 0] / method.target_scale


def squared_error(image, target):
    return ((image - target) ** 2).mean()


def embedding(projector, features):
    """One sample's last map [C, H, W] -> its embedding, not of unit length."""
    first, _, second = projector.layers
    pooled = np.array([channel.mean() for channel in features])
    hidden = np.maximum(array(first.weight) @ pooled + array(first.bias), 0)
    return array(second.weight) @ hidden + array(second.bias)


def unit(x):
    return x / np.sqrt((x**2).sum())


def sample(maps, i):
    return [array(each)[i] for each in maps]


def mixed(first, second, share):
    """Level by level."""
    return [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]


class Expected(NamedTuple):
    """What a batch's formulas give."""

    contrast: float
    images: dict[str, list]  # of each branch: what the decoder makes of each sample, and its target, [S, S]
    keys: np.ndarray  # that enter the queue, [n, 3, dim]
    normaliser: float = 0.0

    @property
    def errors(self):
        return {name: np.mean([squared_error(*pair) for pair in pairs]) for name, pairs in self.images.items()}


def formulas(model, whole, maps):
    """What a batch's losses, images and keys must be, given the maps of the method's encoders (``network_maps``)."""
    return (_released if isinstance(model, PCRLReleased) else _paper)(model, whole, maps)


def network_maps(model, whole):
    """The maps of both encoders, for the views and, in the released form, for the mixtures of images."""
    step, pairs = whole[2].step, [whole[1]]
    if isinstance(model, PCRLReleased):
        order, mu = _mixture(model, whole)
        pairs.append(mu * x + (1 - mu) * x[torch.tensor(order)] for x in whole[1])
    return [maps for x1, x2 in pairs for maps in (model.encoder(x1), _shuffled(model, x2, step))]


def folded(model, step, draw):
    share = model.share(step, draw)
    return max(share, 1 - share)


def plain_nce(queries, keys, queue, temperature, normaliser, batches, epsilon=0.0):
    """Binary NCE as a loop, with the number of batches n: P = exp(s/t) / (n Z), a noise probability of 1 / n."""
    noise, total = len(queue) / batches, 0.0
    for q, k in zip(queries, keys, strict=True):
        positive = math.exp(q @ k / temperature) / (batches * normaliser)
        total -= math.log(positive / (positive + noise + epsilon))
        for n in queue:
            negative = math.exp(q @ n / temperature) / (batches * normaliser)
            total -= math.log(noise / (negative + noise + epsilon))
    return total / len(queries)


def mean_exponential(queries, keys, queue, temperature):
    values = []
    for q, k in zip(queries, keys, strict=True):
        values += [math.exp(q @ each / temperature) for each in (k, *queue)]
    return sum(values) / len(values)


def assert_formulas(model, terms, expected):
    """Losses, monitors, and the image that is handed on."""
    assert terms.losses["di"].item() == pytest.approx(expected.contrast, rel=1e-9)
    for name, error in expected.errors.items():
        assert terms.monitors[f"re_{name}"].item() == pytest.approx(error, rel=1e-9)
    factor, handed_on = {PCRL: (model.target_scale**2, "ordinary"), PCRLReleased: (4.425**2 / 4, "mixed")}[type(model)]
    assert terms.losses["re"].item() == pytest.approx(factor * sum(expected.errors.values()), rel=1e-9)
    images = array(terms.restored)[:, 0], array(terms.target)[:, 0]
    for image, pairs in zip(images, zip(*expected.images[handed_on], strict=True), strict=True):
        np.testing.assert_allclose(image, pairs, rtol=1e-9, atol=1e-12)


def _paper(model, whole, maps):
    ordinary, momentum = maps
    clean, _, facts = whole
    share, t = model.share(facts.step, 0), model.temperature
    first, second = (each.orientations for each in facts.distortions)
    contrast, keys, images = 0.0, [], {"ordinary": [], "momentum": [], "hybrid": []}
    for i in range(len(clean[0])):
        o, m = sample(ordinary, i), sample(momentum, i)
        h = mixed(o, m, share)
        x1, x2 = array(clean[0])[i, 0], array(clean[1])[i, 0]
        q, k = unit(embedding(model.projector, o[-1])), unit(embedding(model.key_projector, m[-1]))
        keys.append([q, k, unit(embedding(model.projector, h[-1]))])
        positive = math.exp(q @ k / t)
        total = positive + sum(math.exp(q @ n / t) for n in array(model.queue))
        contrast -= math.log(positive / total) / len(clean[0])
        for name, levels, image, orientation in (
            ("ordinary", o, x1, first[i, 0]),
            ("momentum", m, x2, second[i, 0]),
            ("hybrid", h, share * x1 + (1 - share) * x2, first[i, 1]),
        ):
            levels = [*levels[:-1], attended(model, levels[-1], orientation)]
            images[name].append((restored(model, levels), turned(image, orientation)))
    return Expected(contrast, images, np.array(keys))


def _released(model, whole, maps):
    ordinary, momentum, mixed_ordinary, mixed_momentum = maps
    clean, distorted, facts = whole
    step, t, count = facts.step, model.temperature, len(clean[0])
    share, mixed_share = folded(model, step, 0), folded(model, step, 2)
    order, mu = _mixture(model, whole)
    first, second = (each.orientations[:, 0] for each in facts.distortions)

    def mixture(values):
        return [mu * values[i] + (1 - mu) * values[order[i]] for i in range(count)]

    def embeddings(projector, levels):
        return [embedding(projector, sample(levels, i)[-1]) for i in range(count)]

    raw_keys = embeddings(model.key_projector, momentum)
    q, q2 = ([unit(x) for x in embeddings(model.projector, levels)] for levels in (ordinary, mixed_ordinary))
    k, k2, k3 = (
        [unit(x) for x in keys]
        for keys in (raw_keys, embeddings(model.key_projector, mixed_momentum), mixture(raw_keys))
    )
    queue, contrast, slot = [*array(model.queue).copy()], 0.0, int(model.queue_pointer)
    normaliser = model.normaliser.item() or mean_exponential(q, k, queue, t)
    for queries, keys in ((q, k), (q2, k2), (q2, k3)):
        contrast += plain_nce(queries, keys, queue, t, normaliser, batches=1227) / 3
        if model.training:
            for key in keys:
                queue[slot % len(queue)] = key
                slot += 1

    clean1, clean2 = (mixture(array(view)[:, 0]) for view in clean)
    images = {"ordinary": [], "hybrid": [], "mixed": [], "mixed_hybrid": []}
    for i in range(count):
        o, m = sample(ordinary, i), sample(momentum, i)
        o[-1], m[-1] = attended(model, o[-1], first[i]), attended(model, m[-1], second[i])
        target1 = turned(array(distorted[0])[i, 0], first[i])
        target2 = turned(array(distorted[1])[i, 0], second[i])
        o2, m2 = sample(mixed_ordinary, i), sample(mixed_momentum, i)
        for name, levels, target in (
            ("ordinary", o, target1),
            ("hybrid", mixed(o, m, share), share * target1 + (1 - share) * target2),
            ("mixed", o2, clean1[i]),
            ("mixed_hybrid", mixed(o2, m2, mixed_share), mixed_share * clean1[i] + (1 - mixed_share) * clean2[i]),
        ):
            images[name].append((restored(model, levels), target))
    return Expected(contrast, images, np.stack([k, k2, k3], axis=1), normaliser)


def _mixture(model, whole):
    """Which image of the micro-batch each is mixed with, and its share: one of the whole step."""
    count, step = len(whole[0][0]), whole[2].step
    if not model.training:
        return list(range(count)), 1.0
    return permutation(count, step, MIXUP + len(model._waiting)), folded(model, step, 1)


def _shuffled(model, images, step):
    """The momentum encoder's maps, BatchNorm groups being those of the shuffled images."""
    if not model.training or norm.groups(model) == 1:
        return model.key_encoder(images)
    order = permutation(len(images), step, len(model._waiting))
    if model.shuffle.kind == "blocks":
        order = transposition(len(images), norm.groups(model))
    order = torch.from_numpy(order)
    return [level[torch.argsort(order)] for level in model.key_encoder(images[order])]
