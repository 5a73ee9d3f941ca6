"""Products in fp32 as such, whatever precision a run allows its networks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ieee_products(device: torch.device) -> Iterator[None]:
    """Keep autocast from rounding pixels to bf16's 8 bits, and a GPU from rounding them to tf32's 11.

    A GPU would do so even where nothing is blurred or moved.
    """
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
