"""Small networks for PCRL's tests, and its formulas written plainly: numpy, one sample at a time."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from dira_scale.data.views import ViewSpec
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


class Given(nn.Module):
    """An encoder that returns these pyramids, one a call."""

    def __init__(self, *pyramids):
        super().__init__()
        self.pyramids = iter(pyramids)

    def forward(self, x):
        return next(self.pyramids)


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
    clean, distorted, its = whole
    cut = tuple(SimpleNamespace(orientations=each.orientations[samples]) for each in its.distortions)
    views = (tuple(view[samples] for view in pair) for pair in (clean, distorted))
    return *views, SimpleNamespace(step=its.step, distortions=cut)


def pyramid(count=4, seed=0, gradient=False):
    generator = torch.Generator().manual_seed(seed)
    maps = [rand(count, c, SIZE >> i, SIZE >> i, generator=generator) for i, c in enumerate(CHANNELS)]
    return [each.requires_grad_(gradient) for each in maps]


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
    total = 0.0
    for a, b in zip(image.ravel(), np.ascontiguousarray(target).ravel(), strict=True):
        total += (a - b) ** 2
    return total / image.size


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


def assert_number_does_not_matter(model, whole):
    """In evaluation a batch's number depends on how many processes share the batches out; no loss may."""
    clean, distorted, its = whole
    numbered = (SimpleNamespace(step=step, distortions=its.distortions) for step in (0, 5))
    first, second = (model(clean, distorted, each).losses for each in numbered)
    assert model.share(0, 0) == model.share(5, 0) == 0.5
    assert all(torch.equal(loss, second[name]) for name, loss in first.items())
