"""C2L against its formula written plainly; several processes: test_processes.py. The shares: test_pcrl.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train.methods.pcrl_parts import Encoder, embedded, mean_exponential, plain_nce, unit

from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.c2l import C2L, MIXUP
from dira_scale.train.methods.shuffle import permutation
from dira_scale.train.models import norm

SEED, EXACT = 3, {"rtol": 1e-9, "atol": 1e-12}


def method(groups=1, **settings):
    """In float64, with a temperature at which a tiny network's gradients are no rounding."""
    torch.manual_seed(SEED)
    settings = {"dim": 6, "queue": 48, "temperature": 0.2, "momentum": 0.9, "shuffle": "batch"} | settings
    return norm.convert(C2L(Encoder(groups > 1), ViewSpec(size=16), **settings), groups).double().train()


def views(count=8, step=0):
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.rand(2, count, 1, 16, 16, generator=generator, dtype=torch.float64))


def forward(model, images, step=0):
    return model(images, images, SimpleNamespace(step=step))


def formula(model, images, step):
    """The loss, and the three keys of each image [b, 3, dim]."""
    x1, x2 = images
    drawn = np.random.Generator(np.random.Philox([step, 1, SEED])).beta(model.alpha, model.alpha)
    mu = max(drawn, 1 - drawn) if model.training else 1.0
    order = permutation(len(x1), step, MIXUP + len(model._waiting)) if model.training else range(len(x1))

    def mixture(values):
        return torch.stack([mu * value + (1 - mu) * values[j] for value, j in zip(values, order, strict=True)])

    q1, q2 = (embedded(model.projector, model.encoder(x)) for x in (x1, mixture(x1)))
    with torch.no_grad():
        raw, new = (teacher(model, x, step) for x in (x2, mixture(x2)))
        k1, k2, k3 = unit(raw), unit(new), unit(mixture(raw))
        z = model.normaliser if model.normaliser else mean_exponential(q1, k1, model.queue, model.temperature)
    queue, slot, loss = model.queue.clone(), int(model.queue_pointer), 0.0
    for queries, keys in ((q1, k1), (q2, k2), (q2, k3)):
        loss = loss + plain_nce(queries, keys, queue.clone(), model.temperature, z, batches=7) / 3
        for key in keys if model.training else ():
            queue[slot % len(queue)] = key
            slot += 1
    return loss, torch.stack([k1, k2, k3], dim=1)


def teacher(model, images, step):
    """Embeddings not of unit length; BatchNorm groups are those of the shuffled images."""
    order = torch.arange(len(images))
    if model.training and norm.groups(model) > 1:
        order = torch.from_numpy(permutation(len(images), step, len(model._waiting)))
    return model.key_projector(model.key_encoder(images[order])[-1])[order.argsort()]


@pytest.mark.parametrize(("groups", "settings"), [(1, {}), (2, {"batch_norm": True, "alpha": 0.5})])
def test_steps_are_the_formula_and_the_queue_a_list_that_forgets_its_oldest(groups, settings):
    """Two steps, the second of two micro-batches, 24 keys each, of which the queue holds 30. Gradients reach the
    student alone."""
    model = method(groups, queue=30, **settings)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("key_") for name in trained)
    slots, slot = [*model.queue.clone()], 0
    for step in range(2):
        whole, size, keys = views(step=step), 8 >> step, []
        for start in range(0, 8, size):
            images = tuple(view[start : start + size] for view in whole)
            expected, new = formula(model, images, step)
            slopes = torch.autograd.grad(expected, [*trained.values()])
            loss = forward(model, images, step).losses["di"]
            torch.testing.assert_close(loss, expected, **EXACT)
            torch.testing.assert_close(torch.autograd.grad(loss, [*trained.values()]), slopes, **EXACT)
            keys += [*new]
        model.after_step()
        for branch in range(3):  # all images' first keys, then all second ones, then all third ones
            for image in keys:
                slots[slot % 30] = image[branch]
                slot += 1
        torch.testing.assert_close(model.queue, torch.stack(slots), **EXACT)
        assert model.queue_pointer.item() == slot % 30


def test_evaluation_mixes_nothing_in_and_changes_nothing():
    model = method(groups=2)
    forward(model, views())
    model.after_step()
    before = [x.clone() for x in model.state_dict().values()]
    model.eval()
    terms = forward(model, views(count=3, step=5), step=5)
    expected, keys = formula(model, views(count=3, step=5), 5)
    torch.testing.assert_close(terms.losses["di"], expected, **EXACT)
    torch.testing.assert_close(keys, keys[:, :1].expand_as(keys), **EXACT)
    assert all(map(torch.equal, before, model.state_dict().values())) and not model._waiting


def test_the_projector_is_linear_or_has_a_hidden_layer_with_batch_norm():
    assert [tuple(p.shape) for p in method().projector.parameters()] == [(6, 16), (6,)]
    assert [len(p) for p in method(batch_norm=True).projector.parameters()] == [16, 16, 16, 6, 6]
