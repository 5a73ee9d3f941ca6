"""Self-distillation over prototypes (DINO: Caron et al., ICCV 2021; DINOv2: Oquab et al. 2023).

A student's softmax is to be that of a teacher, which is centred or balanced against collapse. KoLeo spreads features.

``total``, where a function takes it, sums a tensor over all processes (``train.distributed.collectives.reduce_sum``);
by default there is one process. A ``temperature`` of a teacher may be a 0-dim tensor.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.losses.prototypes import CrossEntropy, Targets

Total = Callable[[Tensor], Tensor]
EPSILON = 1e-8  # of KoLeo's distances (DINOv2's code)


def one_process(x: Tensor) -> Tensor:
    """Return ``x``: the sum over one process."""
    return x


def cross_entropy(teacher: Tensor | Targets, student: Tensor, temperature: float) -> Tensor:
    """Return -sum_k t_k log softmax(s / temperature)_k of each row: [n] (DINO, eq. 2).

    Args:
        teacher: t [n, K], probabilities, or sums of several; without gradient. Of ``Targets`` they are computed where
            they are needed, as is the student's softmax in the backward pass.
        student: s [n, K], logits.

    Example:
        >>> teacher = centred_softmax(torch.randn(8, 64), torch.zeros(64), temperature=0.04)
        >>> cross_entropy(teacher, torch.randn(8, 64), temperature=0.1).shape
        torch.Size([8])
    """
    if isinstance(teacher, Targets):
        return CrossEntropy.apply(student, temperature, teacher)
    with torch.autocast(student.device.type, enabled=False):
        return -(teacher.detach() * F.log_softmax(at_least_float32(student) / temperature, dim=1)).sum(1)


def centred_softmax(logits: Tensor, centre: Tensor, temperature: float | Tensor) -> Targets:
    """Return softmax((logits - centre) / temperature) of ``logits`` [n, K]: the centre [K], a moving average of the
    teacher's logits, keeps one prototype from taking all, a low temperature keeps them from being alike (DINO, sec.
    3.1)."""
    return Targets(logits, temperature, -centre / temperature)


@torch.no_grad()
def sinkhorn_knopp(
    logits: Tensor,
    temperature: float | Tensor,
    present: Tensor | None = None,
    total: Total = one_process,
    iterations: int = 3,
) -> Targets:
    """Return ``logits`` [n, K] as probabilities of which each prototype gets nearly the same share of all processes'
    rows (SwAV: Caron et al., NeurIPS 2020; DINOv2, sec. 4): from exp(logits / temperature), in turn every column and
    every row is divided by its sum.

    Only the columns' divisors are kept: a row divided by its sum is a softmax. The constants of the published form, by
    which a column's sum is 1 / K and a row's 1 / n, cancel in the next division, so processes may have other numbers of
    rows.

    Args:
        logits: cosines. Their largest possible value, 1, is subtracted, which cancels: no exponential overflows.
        present: bool [n], which rows count in the sums of columns. None: all.

    Example:
        >>> shares = sinkhorn_knopp(torch.rand(8, 4), temperature=0.05).probabilities()
        >>> shares.sum(1).allclose(torch.ones(8))
        True
    """
    columns = at_least_float32(logits[:1]).new_zeros(logits.shape[1]) - 1 / temperature
    weights = None if present is None else present.to(columns.dtype)
    for i in range(iterations):
        sums = total(Targets(logits, temperature, columns).sums(weights, normalised=i > 0))
        smallest = torch.finfo(sums.dtype).tiny  # where no row of any process is present
        columns = columns - sums.clamp(min=smallest).log()
    return Targets(logits, temperature, columns)


def koleo(features: Tensor, others: Tensor | None = None, start: int = 0) -> Tensor:
    """Return the mean of -log of each row's distance from the nearest other one, all of unit length (Sablayrolles et
    al., ICLR 2019, eq. 2; DINOv2, sec. 4).

    Args:
        features: [n, D].
        others: all processes' features [m, D], of which those from row ``start`` on are ``features``; None: these.

    Example:
        >>> f"{koleo(torch.eye(4)):.4f}"  # -log of the square root of 2
        '-0.3466'
    """
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(at_least_float32(features), dim=1, eps=EPSILON)
        y = x if others is None else F.normalize(at_least_float32(others), dim=1, eps=EPSILON)
        with torch.no_grad():
            itself = torch.arange(start, start + len(x), device=x.device)
            nearest = (x @ y.T).scatter(1, itself[:, None], -2).argmax(1)  # a cosine is at least -1
        return -(F.pairwise_distance(x, y[nearest], eps=EPSILON) + EPSILON).log().mean()
