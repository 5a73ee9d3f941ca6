"""What MoCo can learn from BatchNorm's statistics alone, by the shuffle of its keys.

    python -m dira_scale.bench leak [--steps 3000] [--seeds 0 1 2] [--json leak.json]

Images are noise, each with a brightness and a contrast of its own, in a black frame. A sample's second view is noise of
*another* image of its BatchNorm group, so nothing in the two views says that they belong together. All that does is
what the statistics of the query's group and of its key's group have in common. The negatives are keys of other batches
by the key encoder of the same step: in the queue, older keys would be known by the encoder's drift. A query is right if
its own key is more similar than all of them; 1 is chance. In the rows ``unrelated`` the second views are of another
batch. The encoder has one BatchNorm: each further one removes part of what is the same in a whole group.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dira_scale.data.views import ViewSpec
from dira_scale.losses.info_nce import info_nce
from dira_scale.methods.moco import MoCo
from dira_scale.methods.shuffle import leak
from dira_scale.models import norm
from dira_scale.models.momentum import ema_update

SIDE, FRAME = 32, 8  # pixels
NEGATIVES, TEMPERATURE, RATE = 3, 0.1, 3e-3  # other batches
SIZES = ((32, 2), (128, 4))  # batch and BatchNorm groups: of `small`, and four as the paper has
SHUFFLES = ("none", "blocks", "batch", "unrelated")
COMPANIONS = {"none": 1.0, "unrelated": 0.0}  # shared, where nothing is shuffled


@dataclass(frozen=True)
class Leak:
    """What was measured in one run; ``companions``: the share of them that a query's and its key's group share."""

    batch: int
    groups: int
    shuffle: str
    seed: int
    companions: float
    times_chance: float


class OneNorm(nn.Module):
    """Two convolutions with a BatchNorm between them."""

    channels, dimensions = (1, 32), 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.second(self.norm(self.first(x)).relu()).relu()]


class Unshuffled(MoCo):
    """Every key in its query's group, as if the queries' images were not to be hidden."""

    def exchange(self, images: Tensor, step: int) -> None:
        return None


def train(batch: int, groups: int, shuffle: str, seed: int, steps: int) -> Leak:
    """Train one, and measure over the last sixth of its steps."""
    torch.manual_seed(seed)
    encoder: Any = OneNorm()
    settings = dict[str, Any](dim=64, queue=batch, momentum=0.99)
    if shuffle in COMPANIONS:
        model: MoCo = Unshuffled(encoder, ViewSpec(size=SIDE), **settings)
    else:
        model = MoCo(encoder, ViewSpec(size=SIDE), **settings, shuffle=shuffle)
    norm.convert(model, groups).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    generator, right = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        first, second = noise(batch, groups, generator)
        others = [noise(batch, groups, generator)[1] for _ in range(NEGATIVES + 1)]
        if shuffle == "unrelated":
            second = others[-1]
        queries = F.normalize(model.projector(model.encoder(first)[-1]), dim=1)
        keys, *negatives = (model._keys(images, step) for images in (second, *others[:NEGATIVES]))
        loss = info_nce(queries, keys, torch.cat(negatives), TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema_update(model.key_encoder.parameters(), model.encoder.parameters(), 1 - model.momentum)
        ema_update(model.key_projector.parameters(), model.projector.parameters(), 1 - model.momentum)
        if step >= steps * 5 // 6:
            right.append(times_chance(queries.detach(), keys, torch.cat(negatives)))
    companions = COMPANIONS[shuffle] if shuffle in COMPANIONS else leak(shuffle, batch, groups)
    return Leak(batch, groups, shuffle, seed, companions, float(np.mean(right)))


def noise(batch: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two views [batch, 1, SIDE, SIDE]; the second is of another image of the group."""
    brightness, contrast = (torch.rand(batch, 1, 1, 1, generator=generator) for _ in range(2))
    brightness, contrast = brightness.square(), 0.02 * (3 * contrast).exp()
    size, side = batch // groups, SIDE - 2 * FRAME
    shift = int(torch.randint(1, size, (), generator=generator))
    other = torch.arange(batch).view(groups, size).roll(shift, dims=1).flatten()

    def view(image: Tensor) -> Tensor:
        pixels = torch.randn(batch, 1, side, side, generator=generator)
        return F.pad(brightness[image] + contrast[image] * pixels, 4 * (FRAME,))

    return view(torch.arange(batch)), view(other)


def times_chance(queries: Tensor, keys: Tensor, negatives: Tensor) -> float:
    """How often a query's own key is more similar than all negatives, over chance."""
    right = (queries * keys).sum(1) > (queries @ negatives.T).amax(1)
    return right.float().mean().item() * (len(negatives) + 1)


def tell(console: Console, results: Sequence[Leak]) -> None:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("batch", "groups", "shuffle", "shared companions", "top-1 over chance"):
        table.add_column(name, justify="right")
    for batch, groups, shuffle in dict.fromkeys((r.batch, r.groups, r.shuffle) for r in results):
        runs = [r for r in results if (r.batch, r.groups, r.shuffle) == (batch, groups, shuffle)]
        values, size = [r.times_chance for r in runs], f"{groups} x {batch // groups}"
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        table.add_row(f"{batch}", size, shuffle, f"{runs[0].companions:.1%}", f"{np.mean(values):.2f}{spread}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="a file to write all figures to")
    arguments = parser.parse_args()
    console, results = Console(width=110), list[Leak]()
    for batch, groups in SIZES:
        for shuffle in SHUFFLES:
            for seed in arguments.seeds:
                results.append(train(batch, groups, shuffle, seed, arguments.steps))
                result = results[-1]
                line = f"{batch} in {groups} groups, {shuffle}, seed {seed}: {result.times_chance:.2f}"
                console.print(line, style="dim", highlight=False)
    tell(console, results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
