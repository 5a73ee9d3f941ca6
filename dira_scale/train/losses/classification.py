"""Classification of what was done to a view (TransVW, sec. II; rotation; relative position)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.train.losses.float32 import at_least_float32


def classified(logits: Tensor, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return -log softmax(``logits`` [b, K]) at ``classes`` int64 [b], the mean over b; and the monitors ``accuracy``,
    how often the largest logit is there, and ``chance``, 1 / K, without gradient.

    Example:
        >>> loss, monitors = classified(torch.zeros(4, 10), torch.tensor([0, 1, 2, 3]))
        >>> f"{loss:.3f}", f"{monitors['accuracy']:.2f}", f"{monitors['chance']:.2f}"
        ('2.303', '0.25', '0.10')
    """
    logits = at_least_float32(logits)
    accuracy = (logits.detach().argmax(1) == classes).float().mean()
    return F.cross_entropy(logits, classes), {
        "accuracy": accuracy, "chance": torch.full_like(accuracy, 1 / logits.shape[1]),
    }  # fmt: skip
