"""VICReg's variance and covariance against numpy's, in float64."""

import numpy as np
import pytest
import torch

from dira_scale.train.losses.covariance import covariance, variance


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_they_are_numpys_and_differentiable(shape):
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.1, 3, shape[1], dtype=torch.float64)  # some of less than 1
    z = (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread + 3).requires_grad_()
    matrix = np.cov(z.detach().numpy(), rowvar=False)
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean()
    others = (matrix[~np.eye(shape[1], dtype=bool)] ** 2).sum() / shape[1]
    assert 0 < variance(z).item() == pytest.approx(hinge, rel=1e-12)
    assert covariance(z).item() == pytest.approx(others, rel=1e-12)
    assert torch.autograd.gradcheck(variance, z) and torch.autograd.gradcheck(covariance, z)


@pytest.mark.parametrize("z", [torch.full((6, 4), 2.0), torch.ones(1, 4)], ids=["collapsed", "one image"])
def test_embeddings_that_do_not_vary(z):
    z.requires_grad_()
    assert (variance(z).item(), covariance(z).item()) == pytest.approx((0.99, 0.0))
    (variance(z) + covariance(z)).backward()
    assert z.grad.isfinite().all()
