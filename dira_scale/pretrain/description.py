"""The description of a pretraining run: from its configuration alone, so of a run that is planned, too."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.pretrain.objective import restores
from dira_scale.train.data.batch import UNITS
from dira_scale.train.description import data_of, stages_of
from dira_scale.train.methods import Method, method_class
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.normalise import input_of
from dira_scale.train.runs.description import (
    Description,
    Metric,
    NetworkDescription,
    Output,
    StageDescription,
    Tensors,
    Term,
)
from dira_scale.train.runs.identity import execution

COMMAND = "pretrain"
TERMS = {
    "di": Term(
        "Discrimination", "discrimination: the encoder learns to recognise two views of one image among other images"
    ),
    "re": Term("Restoration", "restoration: the decoder learns to restore an image from a distorted view of it"),
    "ad": Term(
        "Adversary, the generator's part",
        "adversary: a discriminator learns to tell restored from real images, the decoder to deceive it",
    ),
    "ibot": Term("Hidden patches (iBOT)", "hidden patches: the encoder learns to tell what a teacher sees in them"),
    "global": Term("Whole views", "distillation: the encoder learns what frozen teachers say of a view as a whole"),
    "dense": Term("Places", "distillation of places: the encoder learns what frozen teachers say of each place"),
    "gram": Term(
        "Gram anchor", "Gram anchor: how alike the patches of an image are is held to what it was in an earlier network"
    ),
    "koleo": Term("KoLeo", "KoLeo: the features of different images are pushed apart"),
    "discriminator": Term("Adversary, the discriminator's part"),
}
METRICS = {
    "loss": Metric("Total loss (weighted sum of the stage's terms)", "min"),
    "top1": Metric("Finding an image's other view (top-1)", "max", "di"),
}


def describe(config: Mapping[str, Any]) -> Description:
    """Describe a run of the resolved ``config``: composed, or recorded, which has more keys."""
    data, method, factor = config["data"], config["method"], config["epoch_factor"]
    size, kind = data["size"], method_class(method)
    network, channels = _network(config["model"]), config.get("channels")  # older runs have no such key
    if channels:
        network = replace(network, channels=channels)
    stages = stages_of(config, restores)
    title = "Pretraining run"
    if factor != 1:
        title += f"; every stage has {factor:g} times the epochs that the experiment states (`epoch_factor`)"
    node = method.get("base", method)
    learned = node if _base(method).labelled else None
    by = f"on the dataset's label `{learned['label']}`" if learned else "without labels"
    by += " from frozen teachers" if node.get("teachers") else ""
    metrics = dict(METRICS)
    if _base(method).lesson:
        guessed = f"of words (chance 1/{learned['classes']})" if learned else "of the pretext task"
        metrics["accuracy"] = Metric(f"Accuracy {guessed}", "max", "di")
    return Description(
        command=COMMAND,
        title=title,
        trained=f"pretrained {by}",
        training=_training(config, stages),
        network=network,
        input=replace(
            input_of(
                network.dimensions * (size,) if isinstance(size, int) else tuple(size),
                config.get("normalise"),
                data["range"],
            ),  # older runs have no such key
            channels=channels or 1,
        ),
        data=data_of(config),
        stages=stages,
        terms=_terms(method, stages),
        metrics=metrics,
        best="loss",
        output=Output(
            "sigmoid" if method.get("bounded", kind.bounded) else None,
            method.get("target_scale", 1.0),
            kind.remark,
            restored=channels or 1,
        ),
        tensors=tensors_of(method, any(stage.decoder for stage in stages)),
        execution=execution(COMMAND),
        unit=UNITS[network.dimensions],
        enough_steps=config["enough_steps"],
        monitor_every=config["health"]["every"],
    )


def _network(model: Mapping[str, Any]) -> NetworkDescription:
    """Describe the node ``model``; of one that cannot be built here no more than its name: a report needs no
    network."""
    try:
        network = architecture(model)
    except UserError:
        return NetworkDescription(model, str(model["_target_"]), dimensions=2, channels=1, start=model["weights"])
    return NetworkDescription(model, network.name, network.dimensions, network.channels, network.weights)


def tensors_of(method: Mapping[str, Any], decoder: bool, names: Iterable[str] = ()) -> Tensors:
    """Return where the node ``method`` has its parts in a checkpoint.

    Args:
        decoder: whether a stage trains one.
        names: of the built method's tensors, for a method that makes its base itself.
    """
    prefix, inner = "method.", method
    while isinstance(inner.get("base"), Mapping):
        prefix, inner = f"{prefix}base.", inner["base"]
    for match in filter(None, (re.match(r"((?:base\.)*)encoder\.", name) for name in names)):
        prefix = f"method.{match[1]}"
        break
    kind = method_class(inner)
    decoder = decoder and method.get("masking") != "drop"  # MAE's, which is trained behind its filler
    exported, momentum = "encoder" if decoder else kind.exported, kind.momentum_encoder
    return Tensors(
        module="method",
        optimizer="optim.generator",
        encoder=f"{prefix}{exported}",
        decoder="method.decoder" if decoder else None,
        head="method.head" if decoder else None,
        momentum=f"{prefix}{momentum}" if momentum not in ("", exported) else None,
        side=("discriminator",),
    )


def _terms(method: Mapping[str, Any], stages: Iterable[StageDescription]) -> dict[str, Term]:
    """Ours with the base's name and the restoration's distance; then those of a method of the user's own."""
    base = method.get("base", method).get("_target_", "").rpartition(".")[2]
    terms = dict(TERMS)
    if lesson := _base(method).lesson:
        terms["di"] = Term("Discrimination", f"discrimination: the encoder learns to {lesson}")
    distance = {"mask": "hidden patches", "mse": "MSE", "l1": "L1"}.get(method.get("restoration", ""))
    for name, more in (("di", base), ("re", distance)):
        if more:
            terms[name] = replace(terms[name], title=f"{terms[name].title} ({more})")
    used = dict.fromkeys(term for stage in stages for term in stage.terms)
    return terms | {term: Term(f"loss/{term}", "a term of the run's own method") for term in used if term not in TERMS}


def _base(method: Mapping[str, Any]) -> type[Method]:
    """The class of the method, or of its base."""
    return method_class(method.get("base", method))


def _training(config: Mapping[str, Any], stages: Iterable[StageDescription]) -> tuple[str, ...]:
    data, optimizer = config["data"], config["optim"]["optimizer"]
    summaries = ", ".join(f"`{stage.name}` ({' + '.join(stage.terms)}, {stage.epochs:g} epochs)" for stage in stages)
    precision = config.get("precision_used", config["precision"])  # none before the run has begun
    return (
        f"method: `{config['method']['_target_']}`",
        f"stages of the run: {summaries}",
        f"views of {data['size']} pixels, global batch {data['batch']}, seed {config['seed']}, optimizer "
        f"`{optimizer['_target_']}` at {optimizer['lr']:g}, precision {precision}",
    )
