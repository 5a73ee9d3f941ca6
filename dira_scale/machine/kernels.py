"""Whether kernels of ours build and are right on the device where they are to be used."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
NEAR = 1e-4  # of the largest value: float32's sums in another order


def work(subject: str, compared: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> bool:
    """Whether the kernels that ``compared`` calls build and give what torch's operations give; warns if they do not.

    The first call may come from a pass without gradients, or with autocast.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            off = max(float((a - b).abs().max() / b.abs().max()) for a, b in compared())
        reason = "" if off <= NEAR else f"their results are off by {off:.0e}"
    except Exception as error:  # whatever a compiler of machine code says
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if reason:
        logger.warning(
            "%s: torch's own operations are used, which are slower, as our kernels do not work here (%s)",
            subject,
            reason,
        )
    return not reason
