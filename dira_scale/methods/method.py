"""What the training loop knows of a method."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError, nearest


@dataclass
class Terms:
    """One forward pass. Losses are means over the micro-batch, unweighted."""

    losses: dict[str, Tensor]  # by term: "di", "re"
    # [b, 1, S, S] in [0, 1] each, ``restored`` with gradient; of v restored views [v·b, 1, S, S], the first's first.
    restored: Tensor | None = None
    target: Tensor | None = None  # what it should look like
    monitors: dict[str, Tensor] = field(default_factory=dict)  # 0-dim, detached, on the device
    # Feature pyramids (finest first) of the views that carry gradient, in the views' order: for a method that wraps
    # this one. In training the loop leaves of them the encoder's output alone, in ``features``.
    pyramids: tuple[list[Tensor], ...] = ()
    features: tuple[Tensor, ...] = ()
    embeddings: tuple[Tensor, ...] = ()  # what is compared, of each view, [b, dim], detached: for the health monitors


class Method(nn.Module):
    """A self-supervised objective: ``forward`` computes it, ``after_step`` moves what no gradient moves.

    A subclass says which loss terms it has in ``weights`` (each term's factor in the total) and needs nothing else of
    the loop. Processes appear only through ``dira_scale.distributed.collectives`` and only in training: there every
    process calls ``forward`` for its part of every batch, in evaluation each for batches of its own.
    """

    gradient_views: ClassVar[int] = 1  # how many views' pyramids ``forward`` returns
    views: ViewSpec
    weights: dict[str, float]
    encoder: nn.Module
    decoder: nn.Module | None
    progress: float  # share of the stage that is done, 0 to 1; the loop sets it before every step

    def __init__(self, views: ViewSpec, weights: dict[str, float]) -> None:
        super().__init__()
        self.views = views
        self.decoder = None
        self.progress = 0.0
        self.weights = dict(weights)
        self.active = tuple(self.weights)

    def check(self, batch: int, accumulate: int) -> None:
        """Raise ``UserError`` where this global batch, in ``accumulate`` micro-batches, cannot be trained."""

    def enter_stage(self, terms: Sequence[str]) -> None:
        """Train these loss terms from now on; parameters that none of them reaches lose ``requires_grad``.

        No terms: this method idles inside another, which trains its encoder.
        """
        for term in terms:
            if term not in self.weights:
                known = f"{', '.join(self.weights)}{nearest(term, self.weights)}"
                raise UserError(f"term '{term}': {type(self).__name__} has {known}")
        self.active = tuple(terms)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        """``clean`` and ``distorted``: each view [b, 1, S, S] in [0, 1]; ``batch`` is where they come from."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Once per optimizer step, in training only: momentum model, queue."""
