"""No warning of DDP's that a user cannot act on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@cache
def spend_ddp_warning(device: torch.device) -> None:
    """DDP warns, once per process, that looking for unused parameters found none. We look for another reason
    (``distributed/processes.py``). The warning is C++'s, which no Python filter reaches, so a tiny module draws it
    while stderr is away. Collective; takes no random numbers.
    """
    tiny = DistributedDataParallel(nn.PReLU().to(device), find_unused_parameters=True)
    with _without_stderr():
        tiny(torch.zeros(1, device=device))  # waits for no other process, so nothing else is hidden for long


@contextmanager
def _without_stderr() -> Iterator[None]:
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
