"""DiRA on MoCo in plain PyTorch, twice: as one would write it today, and as its authors released it.

The reference for our loop. Both take weights, settings and images of the method that they are compared with, and
nothing from the training package: no health monitors, NaN guard, BatchNorm groups, accumulation, metrics rows or
processes.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.pretrain.config import Pretrain
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import Distort
from dira_scale.train.distributed.precision import choose
from dira_scale.train.methods import Method
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.models.heads import MLP


class PlainNetwork(nn.Module):
    """U-Net, head of the embedding, and the two that follow them, with torch's own BatchNorm."""

    def __init__(self, config: Pretrain) -> None:
        super().__init__()
        base = config.method["base"]
        unet = config.model.build_network(config.model.build_encoder(config.data.size))
        self.encoder, self.decoder, self.head = unet.encoder, unet.decoder, unet.head
        width = self.encoder.channels[-1]
        self.projector = MLP(width, width, base["dim"], batch_norm=base["batch_norm"])
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)


class Plain:
    """A step of the last stage, written down once and for all: the losses' sum, two optimizers, a moving average.

    Args:
        method, adversary: whose weights are copied; of one BatchNorm group.
        device: where the images are.
    """

    layout = torch.channels_last

    def __init__(self, config: Pretrain, method: Method, adversary: Adversary, device: torch.device) -> None:
        assert config.model.bn_groups == 1, "plain BatchNorm has one group"
        base, self.weights, self.precision = config.method["base"], config.method["weights"], choose(config.precision)
        self.temperature, self.momentum, self.device = base["temperature"], base["momentum"], device
        state = {name.removeprefix("base."): tensor.clone() for name, tensor in method.state_dict().items()}
        self.queue, self.pointer = state.pop("queue").to(device), 0
        self.network = PlainNetwork(config)
        self.network.load_state_dict({name: t for name, t in state.items() if not name.startswith("queue_")})
        self.network.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.discriminator = copy.deepcopy(adversary.discriminator).to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.distort = Distort(method.views).to(device)
        net = self.network
        self.followed: list[Tensor] = [*net.encoder.parameters(), *net.projector.parameters()]
        self.following: list[Tensor] = [*net.key_encoder.parameters(), *net.key_projector.parameters()]
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(config.optim.optimizer, trained)
        self.discriminator_optimizer = optimizer(config.optim.discriminator, list(self.discriminator.parameters()))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on images that are float32 in [0, 1] on the device; its losses."""
        clean = batch.views[0]
        first, second = (self.distort(view, given) for view, given in zip(batch.views, batch.distortions, strict=True))
        with self.autocast():
            pyramid = self.network.encoder(first)
            queries = F.normalize(self.network.projector(pyramid[-1]).float(), dim=1)
            keys = self.keys(second)
            restored = torch.sigmoid(self.network.head(self.network.decoder(pyramid)).float())
        logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ self.negatives()], dim=1)
        target = torch.zeros(len(logits), dtype=torch.long, device=self.device)
        di, re = F.cross_entropy(logits / self.temperature, target), F.mse_loss(restored, clean)
        self.freeze(True)
        ad = (self.discriminator(restored) - 1).square().mean()
        self.freeze(False)
        loss = self.weights["di"] * di + self.weights["re"] * re + self.weights["ad"] * ad
        losses = {"loss/di": di, "loss/re": re, "loss/ad": ad, "loss": loss}
        self.look(losses)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        self.discriminator_optimizer.zero_grad()
        real, fake = self.discriminator(clean), self.discriminator(restored.detach())
        judged = 0.5 * ((real - 1).square().mean() + fake.square().mean())
        judged.backward()
        self.discriminator_optimizer.step()
        losses["loss/discriminator"] = judged
        self.look({"loss/discriminator": judged})
        self.follow()
        self.enqueue(keys)
        return {name: value.detach() for name, value in losses.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def freeze(self, frozen: bool) -> None:
        """The generator's loss runs through the discriminator and leaves no gradient there."""
        self.discriminator.requires_grad_(not frozen)

    def look(self, losses: dict[str, Tensor]) -> None:
        """What is read from the device in every step: nothing."""

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.network.key_projector(self.network.key_encoder(images)[-1])
        return F.normalize(embedded.float(), dim=1)

    def negatives(self) -> Tensor:
        return self.queue.T

    @torch.no_grad()
    def follow(self) -> None:
        torch._foreach_lerp_(self.following, self.followed, 1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        self.queue[self.pointer : self.pointer + len(keys)] = keys
        self.pointer = (self.pointer + len(keys)) % len(self.queue)


class ReleasedPlain(Plain):
    """The authors' way (github.com/fhaghighi/DiRA): fp32, images in NCHW, the rest as PyTorch has it by default.

    What their steps do besides: the key network decodes too, and nobody looks; the generator's loss leaves gradients
    in the discriminator; the average goes parameter by parameter; the queue is copied; five losses are read.
    """

    layout = torch.contiguous_format

    def __init__(self, config: Pretrain, method: Method, adversary: Adversary, device: torch.device) -> None:
        super().__init__(config, method, adversary, device)
        self.key_decoder = copy.deepcopy(nn.ModuleList([self.network.decoder, self.network.head]))

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def freeze(self, frozen: bool) -> None:
        pass

    def look(self, losses: dict[str, Tensor]) -> None:
        for value in losses.values():
            value.item()

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        pyramid = self.network.key_encoder(images)
        decoder, head = self.key_decoder
        head(decoder(pyramid))
        return F.normalize(self.network.key_projector(pyramid[-1]), dim=1)

    def negatives(self) -> Tensor:
        return self.queue.clone().T

    @torch.no_grad()
    def follow(self) -> None:
        for key, query in zip(self.following, self.followed, strict=True):
            key.copy_(key * self.momentum + query * (1 - self.momentum))


def optimizer(config: dict[str, Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    settings = {name: value for name, value in config.items() if name != "_target_"}
    kind: Any = getattr(torch.optim, config["_target_"].rpartition(".")[2])
    made: torch.optim.Optimizer = kind(parameters, **settings)
    return made
