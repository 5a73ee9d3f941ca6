"""All that a checkpoint holds: tensors by name, and where the run stands."""

from dataclasses import dataclass, field

from torch import Tensor
from torch.optim import Optimizer

from dira_scale.engine import optim
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # optimizer steps consumed
    stage: int = 0  # index of the stage
    stage_start: int = 0  # step at which it began
    order_start: int = 0  # which step of its order that was
    epochs: float = 0.0  # through the data before it
    best: dict[str, float] = field(default_factory=dict)  # lowest validation loss by stage
    best_step: dict[str, int] = field(default_factory=dict)  # and the step of that checkpoint
    stale: int = 0  # epochs since the stage's lowest validation loss
    loss_scale: float | None = None  # of fp16
    loss_scale_sound: int = 0  # steps since it last changed


def discriminator(adversary: Adversary, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds beside the generator's pieces: the discriminator and its optimizer's state."""
    tensors = {f"discriminator.{name}": tensor for name, tensor in adversary.state_dict().items()}
    return tensors | optim.state_by_name(optimizer, adversary, "optim.discriminator")


def restore(
    tensors: dict[str, Tensor], method: Method, adversary: Adversary, discriminator_optimizer: Optimizer
) -> dict[str, Tensor]:
    """Put back a checkpoint's tensors, but those of the generator's optimizer, which are returned.

    That optimizer is made anew with each stage, over the parameters that the stage trains.
    """
    method.load_state_dict(_under("method.", tensors))
    adversary.load_state_dict(_under("discriminator.", tensors))
    optim.load_by_name(discriminator_optimizer, adversary, "optim.discriminator", tensors)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("optim.generator.")}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
