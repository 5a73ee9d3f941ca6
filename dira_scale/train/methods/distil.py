"""Distillation of frozen teachers into any student, after AM-RADIO (Ranzinger et al., CVPR 2024)."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError, AtLeast, checked, converted, inside
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import reduce_sum
from dira_scale.train.losses.cosine import cosine_distance, dense_distance
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.dino import as_single_map
from dira_scale.train.methods.method import Method, Terms, check_weights
from dira_scale.train.methods.restoration import check_single
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.teacher import Teacher, TeacherSettings, features, teachers_in
from dira_scale.train.models.vit import averaged

WEIGHTS = MappingProxyType({"global": 1.0, "dense": 1.0})
FLOOR = 1e-3  # of a channel's variance, as a share of the mean one: what has been 0 so far may not remain so
DISTANCES = {"global": cosine_distance, "dense": dense_distance}


class Distil(Method):
    """From a distorted view the student predicts what frozen teachers say of the clean one, as a whole and at each
    place.

    L = w_global L_global + w_dense L_dense, each the mean over teachers by their weights. A teacher's features z are
    standardised by channel, f(z) = (z - mean) / deviation (a plain one of the ways in PHI-S, Ranzinger et al. 2024),
    and predicted from the student's s by a projector g of its own for each term:

    - L_global = 1 - cos(g(s), f(z)) of class tokens, or of the last map's mean where a network has none;
    - L_dense = 0.9 (1 - cos) + 0.1 smooth L1 of patch tokens, or of the last map, both averaged to the coarser of
      their grids first, in the mean over places.

    Of a volume, teachers see the middle planes of ``slices`` slabs along its first axis. Their maps are the layers of
    one, and what they say of the whole volume is the mean over planes.

    Ours: teachers see views without distortions; mean and deviation are those of all images so far, of all processes,
    and until the first step has ended features stay as they are.

    Monitors, of several teachers: ``global_0``, …, ``dense_0``, …: the losses of each.

    Args:
        teachers: weights, or ``TeacherSettings``, of each; at least one.
        hidden: width of the projectors' hidden layer, at least 1 (ours).
        weights: of the terms, at least 0.
        slices: planes of a volume that teachers see, at least 1.

    Raises ArgumentError for settings outside their range, teachers that cannot be read, take other channels or see
    another ``data.range``, and unless there is one view whose clean version is mirrored with it.
    """

    encoder: Encoder
    heads: Any  # projectors, and scales, of each term and teacher
    scales: Any

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        teachers: str | Sequence[str | TeacherSettings],
        hidden: Annotated[int, AtLeast(1)] = 1024,
        weights: Mapping[str, float] = WEIGHTS,
        slices: Annotated[int, AtLeast(1)] = 4,
    ) -> None:
        check_weights(weights, WEIGHTS)
        super().__init__(views, dict(weights))
        check_single("Distil", views)
        if views.target_flip != "with_input":
            expected = "with_input: a teacher's features must be where the student's are"
            raise ArgumentError("views.target_flip", views.target_flip, expected)
        if views.dimensions == 3 and slices > views.sides[0]:
            raise ArgumentError("slices", slices, f"at most {views.sides[0]}, the planes of a view")
        self.encoder, self.slices = encoder, slices
        taught_by = opened(teachers, views, encoder)
        self.teachers = nn.ModuleList(taught_by)
        heads, scales = {}, {}
        for term in WEIGHTS:
            heads[term] = nn.ModuleList(projector(encoder.channels[-1], hidden, each.width) for each in taught_by)
            scales[term] = nn.ModuleList(Standardise(each.width) for each in taught_by)
        self.heads, self.scales = nn.ModuleDict(heads), nn.ModuleDict(scales)

    def identity(self, groups: int, terms: Collection[str]) -> dict[str, Any]:
        return {"teachers": " ".join(teacher.hash[:12] for teacher in teachers_in(self))}

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        for term, heads in self.heads.items():
            heads.requires_grad_(term in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        tokens = self.encoder.tokens(distorted[0], finer=self.finer)
        joined, tokens = as_single_map(self.encoder, tokens)
        whole, places = features(self.encoder, tokens, distorted[0].shape[2:])
        terms = Terms({}, pyramids=(tokens.maps,), features=(joined,))
        each: dict[str, list[Tensor]] = {term: [] for term in self.active}
        for number, teacher in enumerate(teachers_in(self)):
            taught, at_places = teacher(planes(clean[0], self.slices))
            taught = taught.unflatten(0, (len(whole), -1)).mean(1)
            at_places = at_places.unflatten(0, (len(whole), -1)).transpose(1, 2)
            pairs = {"global": (whole, taught), "dense": of_one_grid(places, at_places)}
            for term, losses in each.items():
                student, target = pairs[term]
                prediction, target = self.heads[term][number](student), self.scales[term][number](target)
                losses.append(DISTANCES[term](prediction, target))
        weights = [teacher.weight for teacher in teachers_in(self)]
        for term, losses in each.items():
            weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
            terms.losses[term] = torch.stack(weighted).sum() / sum(weights)
            if len(losses) > 1:
                terms.monitors |= {f"{term}_{number}": loss.detach() for number, loss in enumerate(losses)}
        return terms

    @torch.no_grad()
    def after_step(self) -> None:
        """Add what teachers have said in this step, on all processes, to means and deviations."""
        assert self.training, "after_step follows a training step"
        scales = [scale for of_term in self.scales.values() for scale in of_term if scale.noted]
        sums = reduce_sum(torch.cat([torch.stack(scale.noted).sum(0) for scale in scales], 1))  # one message
        for scale, of_step in zip(scales, sums.split([scale.sums.shape[1] for scale in scales], 1), strict=True):
            scale.sums += of_step
            scale.noted.clear()


class Standardise(nn.Module):
    """[n, D] -> (x - mean) / deviation, by channel, of all rows that ``sums`` has: their number, sum and sum of
    squares, [3, D]. In training it notes the sums of ``x``, which the method adds after the step."""

    sums: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # In float64: a transformer has channels whose mean is a hundred times their deviation.
        self.register_buffer("sums", torch.zeros(3, width, dtype=torch.float64))
        self.noted: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        if self.training:
            total, squares = (each.sum(0, dtype=self.sums.dtype) for each in (x, x.square()))
            self.noted.append(torch.stack([torch.full_like(total, len(x)), total, squares]))
        count, total, squares = self.sums
        mean = total / count.clamp(min=1)
        variance = torch.where(count > 1, squares / count.clamp(min=1) - mean.square(), 1.0)
        deviation = torch.maximum(variance, FLOOR * variance.mean()).clamp(min=1e-12).sqrt()
        return (x - mean.to(x.dtype)) / deviation.to(x.dtype)


def opened(teachers: str | Sequence[str | TeacherSettings], views: ViewSpec, student: Encoder) -> list[Teacher]:
    """Return the teachers that the settings name. Raises ArgumentError naming one."""
    entries = [teachers] if isinstance(teachers, str) else [*teachers]
    if not entries:
        raise ArgumentError("teachers", entries, "at least one: [RUN], or [{weights: hf://timm/NAME, weight: 1}]")
    result = []
    for number, entry in enumerate(entries):
        named: Any = {"weights": entry} if isinstance(entry, str) else entry
        with inside(f"teachers[{number}]"):
            teacher = Teacher(converted(TeacherSettings, named), views.sides)
            if student.channels[0] not in (1, teacher.channels):
                expected = f"weights of a network of {student.channels[0]} channels, as the images have"
                raise ArgumentError("weights", named["weights"], expected)
            if (window := teacher.input.window) and [*window] != [*(views.range or ())]:
                expected = "weights of a network that sees the student's data.range, or that key as"
                raise ArgumentError("weights", named["weights"], f"{expected} {list(window)}, which this one's is")
        result.append(teacher)
    return result


def projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """[n, width] -> [n, out]: two linear layers, between them LayerNorm and GELU."""
    return nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, out))


def planes(x: Tensor, count: int) -> Tensor:
    """Return of volumes [b, C, D, H, W] the middle planes of ``count`` slabs, [b · count, C, H, W], of images these."""
    if x.dim() == 4:
        return x
    middles = [(2 * number + 1) * x.shape[2] // (2 * count) for number in range(count)]
    return torch.stack([x[:, :, middle] for middle in middles], 1).flatten(0, 1)


def of_one_grid(*maps: Tensor) -> list[Tensor]:
    """Return ``maps`` [n, C, (d,) h, w], averaged to the smallest of their sides, as rows [n · d · h · w, C]."""
    whole = [each if each.dim() == 5 else each[:, :, None] for each in maps]
    depth, height, width = (min(each.shape[axis] for each in whole) for axis in (2, 3, 4))
    rows = []
    for each in whole:
        plane = each.shape[3:]
        layers = averaged(each.flatten(3), (depth, plane.numel())).unflatten(3, plane).transpose(1, 2).flatten(0, 1)
        rows.append(averaged(layers, (height, width)).movedim(1, 3).flatten(0, 2))
    return rows
