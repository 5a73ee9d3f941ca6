"""The loss of a stage on one micro-batch: L = Σ λ·L_term (DiRA, equation 4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dira_scale.train.data.batch import Batch, per_sample
from dira_scale.train.data.distort import Distort, DistortVolumes, build
from dira_scale.train.data.views import Views, ViewSpec
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.profiler import VIEWS, span
from dira_scale.train.engine.task import Losses
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import MASK, hidden_voxels


def restores(terms: Sequence[str]) -> bool:
    """Return whether a stage with these terms restores views, for the restoration loss or the adversary."""
    return not {"re", "ad"}.isdisjoint(terms)


class Forward(nn.Module):
    """The method as training calls it: returns only the encoder's output, or what the method has as ``features``,
    instead of complete feature pyramids, whose maps are released before the backward pass.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        terms: Terms = self.method(clean, distorted, batch)
        terms.features = terms.features or tuple(pyramid[-1] for pyramid in terms.pyramids)
        terms.pyramids = ()
        return terms


@dataclass(kw_only=True)
class PretrainLosses(Losses):
    """``carried``: clean and restored images for the adversary, in stages that train it."""

    outputs: Terms  # of the method, for the monitors


class Objective:
    """Distorts the views on the device, runs the method and, in stages that have it, the adversary.

    Args:
        weights: of the terms in the total loss.
        distort: makes the module that distorts the views of one size.
        corrupted: whether views are corrupted in stages that restore nothing, too.
        hides: whether the method's encoder does not see the patches that a ``PatchMask`` draws.
        resized: the same views in other sizes, which some stages have.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        adversary: Adversary,
        views: ViewSpec,
        world: World,
        distort: Callable[[Views], Distort | DistortVolumes] = build,
        corrupted: bool = False,
        hides: bool = False,
        resized: Sequence[ViewSpec] = (),
    ) -> None:
        self.weights, self.adversary, self.world = weights, adversary, world
        self.corrupted, self.hides = corrupted, hides
        self.by_size = {spec.sides: _distorts(spec, distort, world) for spec in (*resized, views)}
        self.distorts = self.by_size[views.sides]
        self.target_flip, self.axes = views.target_flip, views.entries[0].crop.axes

    def __call__(self, model: nn.Module, batch: Batch, terms: Sequence[str]) -> PretrainLosses:
        """The losses of the stage's ``terms``. ``model`` is the method, or its wrapper in training."""
        with span(VIEWS):
            distorted = self.distorted(batch, terms)
        outputs = self.forward(model, batch, distorted)
        losses, carried = dict(outputs.losses), None
        if "ad" in terms and (self.adversary.validated or model.training):
            assert outputs.restored is not None and outputs.target is not None
            beside = self.adversary.beside(outputs.restored, self.seen(distorted, batch), batch)
            losses["ad"] = self.adversary.generator_loss(outputs.restored, *beside)
            carried = outputs.target, outputs.restored.detach(), *beside
        weighted = [self.weights[term] * loss.float() for term, loss in losses.items()]
        total = torch.stack(weighted).sum()
        return PretrainLosses(total, losses, outputs.monitors, outputs.deferred, carried, outputs=outputs)

    def forward(self, model: nn.Module, batch: Batch, distorted: tuple[Tensor, ...]) -> Terms:
        """Run the method on a batch on the device."""
        with self.world.autocast():
            return model(self.clean(batch), distorted, batch)

    def _distorts_of(self, batch: Batch) -> tuple[Distort | DistortVolumes, ...]:
        return self.by_size[tuple(batch.views[0].shape[2:])]

    def clean(self, batch: Batch) -> tuple[Tensor, ...]:
        """The undistorted views, rotated as the distorted ones, or upright: what is to be restored."""
        if self.target_flip != "with_input":
            return self.upright(batch.views, batch)
        of_views = zip(self._distorts_of(batch), batch.views, batch.distortions, strict=True)
        return tuple(distort.turned(view, parameters) for distort, view, parameters in of_views)

    def upright(self, views: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        """``views`` in the orientation of the restoration target: flipped back if ``views.target_flip`` requires it."""
        if self.target_flip == "with_input":
            return views
        for axis in self.axes:
            flips = (flip[:, axis] for flip in batch.flips)
            pairs = zip(views, flips, strict=True)
            views = tuple(torch.where(per_sample(flip, view), view.flip(axis), view) for view, flip in pairs)
        return views

    def corrupts(self, terms: Sequence[str]) -> bool:
        """Return whether a stage with these terms corrupts its views: not if it restores nothing (the released code's
        mode `di`), unless the method always does."""
        return self.corrupted or restores(terms)

    def distorted(self, batch: Batch, terms: Sequence[str], corrupt: bool = True) -> tuple[Tensor, ...]:
        """T(.) of every view; without cutout and shuffling in stages that corrupt none."""
        corrupt = corrupt and self.corrupts(terms)
        of_views = enumerate(zip(self._distorts_of(batch), batch.views, batch.distortions, strict=True))
        return tuple(
            distort(view, parameters, corrupt, batch.lacking(number))
            for number, (distort, view, parameters) in of_views
        )

    def seen(self, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        """``distorted`` views as the encoder sees them: black where a token hides patches whose pixels are there."""
        if not self.hides:
            return distorted
        masked = (MASK in distortion.corruptions for distortion in batch.distortions)
        return tuple(
            view.masked_fill(hidden_voxels(batch, number, view.shape[2:]), 0.0) if has_mask else view
            for number, (view, has_mask) in enumerate(zip(distorted, masked, strict=True))
        )


def _distorts(
    views: ViewSpec, distort: Callable[[Views], Distort | DistortVolumes], world: World
) -> tuple[Distort | DistortVolumes, ...]:
    """Return the module that distorts each of ``views``."""
    modules = [distort(entry).to(world.device) for entry in views.entries]
    return tuple(module for module, entry in zip(modules, views.entries, strict=True) for _ in range(entry.count))
