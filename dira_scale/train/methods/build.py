"""From configuration to a method: ``_target_`` names its class, ours or yours."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.border import at, constructed
from dira_scale.base.config.registry import imported
from dira_scale.base.errors import UserError
from dira_scale.train.data.config import as_stored
from dira_scale.train.data.labels import Columns, LabelChoice
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.method import Method
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import Architecture, architecture
from dira_scale.train.models.dino_files import MASK_TOKEN
from dira_scale.train.models.hub import local
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.network import Network
from dira_scale.train.models.normalise import check_channels, input_of, normalise_input

SIZE = {"size": "data.size"}
# The keys of what a method is offered beside its own node.
OFFERED = {
    "views": "views", "views.size": "data.size", "encoder": "model.encoder", "network": "model", "batch": "data.batch",
    "accumulate": "parallel.accumulate",
}  # fmt: skip


def build(
    method_cfg: Any,
    model_cfg: Any,
    views: ViewSpec,
    batch: int,
    accumulate: int = 1,
    tensors: Mapping[str, Tensor] | None = None,
) -> Method:
    """The method of ``configs/method/*.yaml`` on the network of ``configs/model/*.yaml``, ready to train ``batch``.

    Collective: every process calls it, with the same random state. ``batch``: the global one.

    Raises ``UserError`` naming the key, as :func:`construct` and :func:`check_batch` do, and if the batch does not
    divide into BatchNorm groups.
    """
    method = construct(method_cfg, model_cfg, views, tensors)
    with at("model"):
        groups = architecture(model_cfg).groups(batch)
    check_batch(method, batch, groups, accumulate)
    return method


def construct(
    method_cfg: Any,
    model_cfg: Any,
    views: ViewSpec,
    tensors: Mapping[str, Tensor] | None = None,
    channels: int | None = None,
    normalise: str | None = None,
) -> Method:
    """The method, whatever the batch: its BatchNorm has one group until :func:`check_batch`.

    A method's constructor gets the arguments that it names: ``encoder``, ``network`` (the encoder with a decoder and a
    head), ``views``, and ``base``, the method of its own ``base`` node, built on the same encoder. All other arguments
    come from its node. If ``model.weights`` is a run folder, ``tensors`` are those of its checkpoint; momentum networks
    start as copies of the loaded weights, and a mask token as the file's. ``channels``: of the first layer and of
    restored images; None: the architecture's own, and one. ``normalise``: ``imagenet``, so that encoders see images of
    [0, 1] normalised by its mean and deviation; None: as they are.

    Raises ``UserError`` naming the key: a ``_target_`` that cannot be imported or is not a method, an unknown or
    missing argument, a normalisation of three channels for a network of others.
    """
    model = architecture(model_cfg)
    check_dimensions(model, views)
    with at(""):
        check_channels(normalise, channels or model.channels)
    with at("model", SIZE):
        encoder = model.build_encoder(views.size, channels) if channels else model.build_encoder(views.size)
    normalise_input(encoder, input_of(tuple(views.sides), normalise))
    for number, crops in enumerate(views.entries):
        with at(f"views.crops[{number}]"):
            if crops.sides != views.sides:
                model.check_view(encoder, crops.size)
    start, node = None, _plain(method_cfg)
    if model.weights is not None:
        with at("model.weights"):
            weights = local(model.weights)
            start = StartWeights(weights, encoder, tensors, name=model.weights)

    def network() -> Network:
        with at("model"):
            network = model.build_network(encoder, channels or 1)
        if start:
            with at("model.weights"):
                start.fill(network, node.get("target_scale", 1.0))
        return network

    offered = {"encoder": lambda: encoder, "network": network, "views": lambda: views}
    method = _construct(node, "method", offered)
    if views.repeating != method.repeating:
        expected = f"{method.repeating or 'none'} with same_as for {type(method).__name__}: DINOv2's anchor alone sees"
        raise UserError(f"views.crops: expected {expected} views again, the two global ones, after all others")
    if start:
        from dira_scale.train.models.start import start_of  # needs pyarrow

        for part in method.modules():
            if isinstance(part, Method) and isinstance(token := getattr(part, MASK_TOKEN, None), nn.Parameter):
                start.fill_mask_token(token)
        method.start = start_of(weights, start, "model.weights")
    norm.convert(method)
    return method


def check_batch(method: Method, batch: int, groups: int, accumulate: int) -> None:
    """Prepare ``method`` for this global batch in so many BatchNorm groups. Collective.

    Raises ``UserError`` if it cannot train it, or the groups do not divide over the processes.
    """
    with at("model"):
        norm.regroup(method, groups, accumulate)
    key = "method"
    part: Any = method
    while isinstance(part, Method):
        with at(key, OFFERED):
            part.check(batch, accumulate)
        key, part = f"{key}.base", getattr(part, "base", None)


def views_of(cfg: DictConfig) -> ViewSpec:
    """The views of ``configs/views/*.yaml``; raises ``UserError`` if they are invalid."""
    stored = {name: f"data.{name}" for name in ("size", "spacing", "range", "pad")}
    node, data = _plain(cfg.views), _plain(cfg.data)
    if node.get("corruptions") is None:  # an experiment clears a default so
        node.pop("corruptions", None)
    return constructed("views", node, stored, size=data["size"], **as_stored(data))


def method_class(method_cfg: Any) -> type[Method]:
    """The class of ``configs/method/*.yaml``; ``Method`` itself, with its defaults, if it cannot be imported here."""
    try:
        target = _target(_plain(method_cfg), "method")
    except UserError:
        return Method
    return target if inspect.isclass(target) and issubclass(target, Method) else Method


class LearnedLabel(NamedTuple):
    """A label of classes that comes with every batch of a method (``Method.labelled``)."""

    choice: LabelChoice
    classes: int
    node: str  # the key of the method, which has ``label`` and ``classes``

    def check(self, labels: Columns | None) -> None:
        """Raise ``ArgumentError`` unless the datasets' ``labels`` are so many classes."""
        count = len(labels.names) if labels else 0
        if count != self.classes:
            has = f"as label '{', '.join(self.choice.names or ())}' of the shards has"
            raise ArgumentError("classes", self.classes, f"{count}, {has}")


def learned_label(method_cfg: Any) -> LearnedLabel | None:
    """Return the label of ``Batch.labels`` that the method of ``configs/method/*.yaml``, or its base, learns; None if
    it learns none, or if its settings do not name it, which :func:`construct` refuses."""
    key, node = "method", _plain(method_cfg)
    while isinstance(node.get("base"), Mapping):
        key, node = f"{key}.base", node["base"]
    label = node.get("label")
    if not (method_class(node).labelled and isinstance(label, str) and "classes" in node):
        return None
    return LearnedLabel(LabelChoice((label,), exclusive=True, complete=True), node["classes"], key)


def check_dimensions(model: Architecture, views: ViewSpec) -> None:
    """Raise UserError unless the network is one of images, or volumes, as the views are."""
    side, size = views.sides[0], views.size if views.dimensions == 2 else list(views.sides)
    fitting = {2: f"one side, such as {side}", 3: f"three sides, such as {[min(side, 64)] * 3}"}[model.dimensions]
    with at("data"):
        if model.dimensions != views.dimensions:
            kind = "images" if model.dimensions == 2 else "volumes"
            raise ArgumentError("size", size, f"{fitting}: {model.name} takes {kind}")


def _construct(node: dict[str, Any], key: str, offered: Mapping[str, Callable[[], Any]]) -> Method:
    target = _target(node, key)
    parameters = inspect.signature(target).parameters
    arguments = {name: make() for name, make in offered.items() if name in parameters}
    if "base" in parameters and "base" in node:
        arguments["base"] = _construct(_plain(node["base"]), f"{key}.base", offered)
        node = {name: value for name, value in node.items() if name != "base"}
    method = constructed(key, node, OFFERED, **arguments)
    if not isinstance(method, Method):
        raise UserError(f"{key}._target_: {node['_target_']} is not a dira_scale.train.methods.Method")
    return method


def _target(node: dict[str, Any], key: str) -> Any:
    if "_target_" not in node:
        raise UserError(f"{key}._target_ is missing: name the method's class, such as MoCo")
    return imported(f"{key}._target_", node["_target_"])


def _plain(node: Any) -> dict[str, Any]:
    """A node as a plain dict, interpolations resolved."""
    return OmegaConf.to_container(OmegaConf.create(node), resolve=True)  # type: ignore[return-value]
