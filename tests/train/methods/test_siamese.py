"""SimSiam, Barlow Twins, BYOL, VICReg, SimCLR on one process: plain formulas in float64, and lightly's losses."""

import lightly.loss
import pytest
import torch
from torch import nn
from train.methods.tiny import forward, method, views

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.cosine import negative_cosine
from dira_scale.train.methods.barlow import BarlowTwins, cross_correlation, redundancy, standardised
from dira_scale.train.methods.byol import BYOL
from dira_scale.train.methods.method import Terms
from dira_scale.train.methods.pairs import note_matches
from dira_scale.train.methods.simclr import SimCLR
from dira_scale.train.methods.simsiam import SimSiam
from dira_scale.train.methods.vicreg import VICReg

METHODS = pytest.mark.parametrize("kind", [SimSiam, BarlowTwins, BYOL, VICReg])


def doubles(tensors):
    return tuple(tensor.double() for tensor in tensors)


def cosine(a, b):
    """Mean over the rows of a·b / (|a| |b|), one row after another."""
    return sum(x.dot(y) / (x.dot(x) * y.dot(y)) ** 0.5 for x, y in zip(a, b, strict=True)) / len(a)


def barlow_formula(z1, z2, off_diagonal, scale):
    """Equations 1 and 2 of the paper, with BatchNorm's epsilon in the standardisation."""
    n, dim = z1.shape
    a, b = ((z - z.mean(0)) / (((z - z.mean(0)) ** 2).mean(0) + 1e-5).sqrt() for z in (z1, z2))
    loss = 0.0
    for i in range(dim):
        for j in range(dim):
            c = (a[:, i] * b[:, j]).sum() / n
            loss = loss + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return scale * loss


def embeddings(count=8, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z1 = torch.randn(count, dim, generator=generator, dtype=torch.float64) * 2 + 3
    z2 = z1 / 2 + torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return z1.requires_grad_(), z2.requires_grad_()


def gradients(loss, inputs):
    return loss.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)


def correlation_of(z1, z2, training=True):
    return cross_correlation(standardised(z1, training), standardised(z2, training), training)


def barlow(z1, z2, off_diagonal=0.0051, scale=1.0, training=True):
    return scale * redundancy(correlation_of(z1, z2, training), off_diagonal)


@pytest.mark.parametrize("training", [True, False])
def test_barlow_and_its_gradient_are_the_formula(training):
    pair = embeddings()
    ours = gradients(barlow(*pair, off_diagonal=0.3, scale=0.7, training=training), pair)
    torch.testing.assert_close(ours, gradients(barlow_formula(*pair, 0.3, 0.7), pair), rtol=1e-9, atol=1e-11)


def test_losses_are_float32_under_autocast():
    half = tuple(z.detach().bfloat16() for z in embeddings(count=16))
    with torch.autocast("cpu", torch.bfloat16):
        inside = negative_cosine(*half)
        model, images = method(BarlowTwins), views()
        terms = forward(model, images)
        z1, z2 = (model.projector(model.encoder(view)[-1]) for view in images)
    assert torch.equal(inside, negative_cosine(*(z.float() for z in half)))
    assert z1.dtype == torch.bfloat16 and all(z.dtype == torch.float32 for z in terms.embeddings)
    assert torch.equal(terms.losses["di"], barlow(z1.float(), z2.float()))


def outputs(model, images):
    """The plain layers' outputs for both views: pooled, projected, predicted."""
    z = [model.projector(model.encoder(view)[-1].flatten(2).mean(2)) for view in images]
    return z, [model.predictor(each) for each in z]


@pytest.mark.parametrize("kind", [SimSiam, BYOL])
def test_losses_of_predictions_are_the_formulas(kind):
    """SimSiam's equation 2 with stop-gradients, BYOL's, both ways: squared distances of unit vectors."""
    model, images = method(kind).double(), doubles(views())
    (z1, z2), (p1, p2) = outputs(model, images)
    expected = -cosine(p1, z2.detach()) / 2 - cosine(p2, z1.detach()) / 2
    if kind is BYOL:
        with torch.no_grad():  # a target network unlike the online one
            for parameter in model.target_encoder.parameters():
                parameter.mul_(1.5)
        t1, t2 = (model.target_projector(model.target_encoder(view)[-1]).detach() for view in images)
        expected = 4 - 2 * cosine(p1, t2) - 2 * cosine(p2, t1)
    loss = forward(model, images).losses["di"]
    of_all = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (gradients(each, of_all) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_vicreg_is_lightlys_and_takes_the_whole_batch():
    """Lightly's is the authors' code; the expander's BatchNorm is cut into groups."""
    model, images = method(VICReg, groups=4, invariance=2.0, variance=3.0, covariance=5.0).double(), doubles(views(16))
    pair = [model.projector(model.encoder(view)[-1]) for view in images]
    expected = lightly.loss.VICRegLoss(lambda_param=2.0, mu_param=3.0, nu_param=5.0)(*pair)
    loss, of_all = forward(model, images).losses["di"], [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (gradients(each, of_all) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: VICReg"):
        model.check(batch=16, accumulate=2)


@pytest.mark.parametrize("training", [True, False])
def test_simclr_is_lightlys_and_the_formula_and_takes_the_whole_batch(training):
    model, images = method(SimCLR, groups=4, temperature=0.3).double().train(training), doubles(views(16))
    pair = [model.projector(model.encoder(view)[-1]) for view in images]
    z = torch.nn.functional.normalize(torch.cat(pair), dim=1)
    near = (z @ z.T / 0.3).exp()
    formula = torch.stack([-(near[i, (i + 16) % 32] / (near[i].sum() - near[i, i])).log() for i in range(32)]).mean()
    loss, of_all = forward(model, images).losses["di"], [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (gradients(each, of_all) for each in (loss, lightly.loss.NTXentLoss(0.3)(*pair)))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(loss, formula, rtol=1e-9, atol=1e-11)
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: SimCLR"):
        model.check(batch=16, accumulate=2)


def test_barlow_takes_the_whole_batch_whatever_the_groups():
    """The projector's BatchNorm is cut into groups; the correlation is not."""
    model, images = method(BarlowTwins, groups=4, scale=0.5), views(count=16)
    z1, z2 = (model.projector(model.encoder(view)[-1]) for view in images)
    torch.testing.assert_close(forward(model, images).losses["di"], barlow_formula(z1, z2, 0.0051, 0.5))
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: Barlow Twins"):
        model.check(batch=16, accumulate=2)


def test_heads_of_the_papers():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    class ResNet50(nn.Module):
        channels = (3, 2048)

    with torch.device("meta"):
        simsiam, twins, byol, vicreg = (kind(ResNet50(), ViewSpec()) for kind in (SimSiam, BarlowTwins, BYOL, VICReg))
    # The released projector's last layer has 2,048 biases more: frozen, and without effect before a BatchNorm.
    assert (count(simsiam.projector) + 2048, count(simsiam.predictor)) == (12_593_152, 2_100_224)
    assert count(twins.projector) == count(vicreg.projector) == 151_027_712
    assert [count(head) for head in (byol.projector, byol.predictor)] == [
        2048 * 4096 + 2 * 4096 + 4096 * 256 + 256,
        256 * 4096 + 2 * 4096 + 4096 * 256 + 256,
    ]
    last = simsiam.projector.layers[-1]
    assert isinstance(last, nn.BatchNorm1d) and not last.affine


@METHODS
def test_top1_counts_nearest_siblings(kind):
    model, images = method(kind), views()
    terms = forward(model, images)
    z1, z2 = terms.embeddings
    assert z1.shape == z2.shape == (8, 5) and not z1.requires_grad and not z2.requires_grad
    expected = model.projector(model.encoder(images[0])[-1]).detach()
    if kind is BarlowTwins:  # its loss sees neither the components' means nor their sizes
        expected = (expected - expected.mean(0)) / (expected.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(z1, expected)
    hits = [max(range(8), key=lambda j: cosine(z1[i : i + 1], z2[j : j + 1]).item()) == i for i in range(8)]
    [measure] = terms.deferred
    assert measure()["top1"].item() == pytest.approx(sum(hits) / 8)
    assert measure()["chance"].item() == 1 / 8
    assert len(terms.pyramids) == kind.gradient_views == 2
    for pyramid, image in zip(terms.pyramids, images, strict=True):
        torch.testing.assert_close(pyramid[-1], model.encoder(image)[-1])


def test_top1_knows_no_lengths():
    first = torch.eye(4)
    second = first[[0, 1, 3, 2]] * torch.tensor([[1.0], [100.0], [1.0], [7.0]])
    note_matches(terms := Terms({}), first, second, training=False)
    assert terms.monitors["top1"].item() == 0.5


def test_target_network_follows_after_the_step_by_the_cosine():
    """momentum at the start, the middle and the end: 0.9, 0.95, 1; parameters only, not BatchNorm's statistics."""
    model, images = method(BYOL, momentum=0.9), views()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for progress, kept in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        model.progress = progress
        now = dict(model.named_parameters())
        before = {n: p.clone() for n, p in now.items() if n.startswith("target_")}
        for micro in range(2):  # micro-batches of one step
            forward(model, tuple(view[4 * micro : 4 * micro + 4] for view in images)).losses["di"].backward()
        optimizer.step()
        assert all(torch.equal(now[n], p) for n, p in before.items())
        buffers = [b.clone() for b in model.target_encoder.buffers()]
        model.after_step()
        for name, old in before.items():
            torch.testing.assert_close(now[name], kept * old + (1 - kept) * now[name.removeprefix("target_")])
        assert all(map(torch.equal, buffers, model.target_encoder.buffers()))
    assert method(BYOL).momentum == 0.996
    with pytest.raises(AssertionError, match="training"):
        model.eval().after_step()
