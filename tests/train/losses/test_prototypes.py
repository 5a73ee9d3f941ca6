"""The GPU's kernels, run by Triton's interpreter on a CPU, against torch's operations."""

import sys

import torch
from harness import INTERPRETED, finish
from needs import need_extra

from dira_scale.train.losses import prototypes


def compare():
    """Every row and column has several blocks, tiles and chunks, and a rest."""
    from dira_scale.train.losses import prototypes_triton as kernels

    kernels.BLOCK, kernels.TILE, kernels.CHUNK = 16, (2, 16), 4
    generator = torch.Generator().manual_seed(0)
    student, logits = torch.randn(2, 7, 41, generator=generator).bfloat16()
    columns, weights = torch.randn(41, generator=generator), torch.rand(7, generator=generator).round()
    teacher = torch.tensor(0.4, dtype=torch.float64)
    for weight in (weights, None):
        for normalised in (True, False):
            given = logits, teacher, columns, weight, normalised
            torch.testing.assert_close(kernels.prototype_sums(*given), prototypes.prototype_sums(*given))
    losses, norms = kernels.prototype_losses(student, logits, columns, teacher, 0.2)
    expected, plain = prototypes.prototype_losses(student, logits, columns, teacher, 0.2)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(norms, plain)
    torch.testing.assert_close(norms[1], (logits.float() / 0.4 + columns).logsumexp(1))
    given = weights - 0.3, student, logits, columns, teacher, norms, 0.2
    torch.testing.assert_close(kernels.prototype_gradient(*given), prototypes.prototype_gradient(*given))


def test_the_kernels_are_the_formulas():
    need_extra("triton")
    finish([sys.executable, "-c", f"{INTERPRETED}from train.losses.test_prototypes import compare\ncompare()"])


def test_a_device_without_the_kernels_is_told_once(caplog):
    prototypes.usable.cache_clear()
    assert not prototypes.usable(torch.device("cpu")) and not prototypes.usable(torch.device("cpu"))
    assert caplog.text.count("our kernels do not work here") == 1
    prototypes.usable.cache_clear()
