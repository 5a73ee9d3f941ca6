"""Replicas whose gradients are averaged."""

import warnings

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn


def prepare(accelerator: Accelerator, method: nn.Module) -> nn.Module:
    """``method`` as it is called in training: itself, or wrapped in DDP with several processes."""
    if accelerator.num_processes == 1:
        return method
    accelerator.free_memory()  # forget the stage before
    with warnings.catch_warnings():  # its successor is unknown to Accelerate and to older torch
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return accelerator.prepare_model(method)


def average_gradients(module: nn.Module, ranks: int) -> None:
    """Average the gradients of a small replicated module over ranks, in one collective."""
    if ranks == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= ranks
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
