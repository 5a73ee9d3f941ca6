"""The interface between a method and the training loop."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import nearest
from dira_scale.base.machine.graphs import recording
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec

if TYPE_CHECKING:
    from dira_scale.train.models.start import Start


@dataclass
class Terms:
    """One forward pass. Losses are means over the micro-batch, unweighted."""

    losses: dict[str, Tensor]  # by term: "di", "re"
    # Each [b, 1, *size], ``restored`` with gradient, ``target`` in [0, 1]; with v restored views [v·b, 1, *size], first
    # view first.
    restored: Tensor | None = None
    target: Tensor | None = None  # for ``restored``
    orientation: Tensor | None = None  # uint8 [b, 3]: how the target is turned (``train.data.geometry.orientation``)
    monitors: dict[str, Tensor] = field(default_factory=dict)  # 0-dim, detached, on the device
    # More of them, that wait for the other processes: called after the step, so that arithmetic hides the message.
    deferred: list[Callable[[], dict[str, Tensor]]] = field(default_factory=list)
    # Feature pyramids (finest first) of the views with gradient, in the views' order: for a method that wraps this one.
    # In training the loop keeps only the encoder's output of them, in ``features``, where the method itself names none.
    pyramids: tuple[list[Tensor], ...] = ()
    features: tuple[Tensor, ...] = ()
    embeddings: tuple[Tensor, ...] = ()  # of each view, as compared, [b, dim], detached: for the health monitors


def check_weights(weights: Mapping[str, float], terms: Collection[str]) -> None:
    """Raise ArgumentError unless ``weights`` has a number of at least 0 for each of ``terms``, and nothing else."""
    if set(weights) != set(terms):
        raise ArgumentError("weights", weights, f"a number for each of {', '.join(terms)}")
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
            raise ArgumentError(f"weights.{name}", weight, "a number of at least 0")


class Method(nn.Module):
    """A self-supervised objective: ``forward`` computes it, ``after_step`` updates what has no gradient.

    A subclass declares its loss terms in ``weights`` (each term's factor in the total) and needs nothing else from the
    loop. It may communicate only through ``dira_scale.train.distributed.collectives`` and only in training: there every
    process calls ``forward`` for its part of every batch; in evaluation each process has its own batches. Constructors
    raise ArgumentError for settings outside their range.
    """

    gradient_views: ClassVar[int] = 1  # number of views whose pyramids ``forward`` returns
    bounded: ClassVar[bool] = True  # whether a restored view is the head's output through a sigmoid, or that itself
    remark: ClassVar[str] = ""  # what else the card of exported weights must say; a sentence
    trained_by_di: ClassVar[tuple[str, ...]] = ()  # attributes that hold what only the term ``di`` trains
    momentum_encoder: ClassVar[str] = ""  # attribute that holds the momentum encoder, if there is one
    exported: ClassVar[str] = "encoder"  # attribute of the encoder that is kept of a run without a decoder
    sets_parameters: ClassVar[bool] = False  # whether ``after_step`` sets trained parameters
    labelled: ClassVar[bool] = False  # whether it learns the label of classes that ``label`` and ``classes`` name
    lesson: ClassVar[str] = ""  # if it classifies what was done to a view, what ``di`` teaches: "tell …"
    resizes: ClassVar[bool] = False  # whether stages may have views of another size (``ViewSpec.resized``)
    launched: str = ""  # why its steps cannot be recorded (``parallel.graph``), if they cannot
    hides: bool = False  # whether the encoder does not see the patches that a ``PatchMask`` draws
    finer: bool = False  # whether a method around it reads maps of its pyramids beside the last
    corrupted: bool = False  # whether stages that restore nothing have corrupted views, too
    views: ViewSpec
    weights: dict[str, float]
    encoder: nn.Module
    decoder: nn.Module | None
    start: "Start | None" = None  # the weights that it starts from; None: random ones
    steps: int = 1  # of the stage, likewise
    repeating: int = 0  # how many of its last views repeat others, in another size (``ViewSpec.repeating``)

    def __init__(self, views: ViewSpec, weights: dict[str, float]) -> None:
        super().__init__()
        self.views = views
        self.decoder = None
        self.progress = 0.0
        self.weights = dict(weights)
        self.active = tuple(self.weights)

    def check(self, batch: int, accumulate: int) -> None:
        """Raise ArgumentError if the method cannot train this global batch in ``accumulate`` micro-batches; what it
        wraps in ``base`` is asked by itself."""

    def identity(self, groups: int, terms: Collection[str]) -> dict[str, Any]:
        """Return what identifies a run of this method beside its configuration, such as versions of its algorithm; by
        default that of the method that it wraps in ``base``.

        Args:
            groups: the largest number of BatchNorm groups of a stage.
            terms: that any stage trains.
        """
        base = getattr(self, "base", None)
        return base.identity(groups, terms) if isinstance(base, Method) else {}

    def remarks(self, batch: int, groups: int, terms: Collection[str]) -> list[str]:
        """Lines for `plan` and a run's start on what it means for a stage of these ``terms`` that its (micro-)batch has
        so many BatchNorm groups."""
        base = getattr(self, "base", None)
        return base.remarks(batch, groups, terms) if isinstance(base, Method) else []

    def enter_stage(self, terms: Sequence[str]) -> None:
        """Train these loss terms from now on; parameters that none of them uses lose ``requires_grad``.

        Without terms, this method idles inside another one that trains its encoder. Raises ArgumentError for a term
        that it does not have.
        """
        for term in terms:
            if term not in self.weights:
                expected = f"terms of {type(self).__name__}, which has {', '.join(self.weights)}"
                raise ArgumentError("terms", [*terms], f"{expected}{nearest(term, self.weights)}")
        self.active = tuple(terms)
        for part in self.trained_by_di:
            getattr(self, part).requires_grad_("di" in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        """``clean`` and ``distorted``: each view of ``batch``, [b, 1, *size] in [0, 1]."""
        raise NotImplementedError

    def pyramids(self, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[list[Tensor], ...]:
        """The pyramids of these first views as ``forward`` makes them, while this method idles."""
        return tuple(self.encoder(view) for view in distorted)

    @property
    def progress(self) -> float:
        """The completed share of the stage, 0 to 1; the loop sets it before every step. A number of the host: a forward
        pass reads it in ``graphs.number``, ``after_step`` in what it ``launch``es."""
        if recording():
            raise RuntimeError("progress is read while the step is recorded: read it in graphs.number or graphs.launch")
        return self._progress

    @progress.setter
    def progress(self, share: float) -> None:
        self._progress = share

    def before_step(self) -> None:
        """Called before each optimizer step, outside a forward pass, when ``progress`` has been set."""

    def after_step(self) -> None:
        """Once per optimizer step, in training only: momentum model, queue."""
