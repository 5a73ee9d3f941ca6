"""The description of a fine-tuning run: from its configuration alone, so of a run that is planned, too."""

from collections.abc import Mapping
from typing import Any

from dira_scale.finetune.config import FROZEN, nevertheless
from dira_scale.judge.tasks.task import FINETUNE, task_of
from dira_scale.train.data.batch import UNITS
from dira_scale.train.description import data_of, stages_of
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.normalise import input_of
from dira_scale.train.models.start import RANDOM
from dira_scale.train.runs.description import CHOSEN_RATE, Description, Metric, NetworkDescription, Output, Tensors
from dira_scale.train.runs.identity import execution


def describe(config: Mapping[str, Any]) -> Description:
    """Describe a run of the resolved ``config``: composed, or recorded, which has what the task knows of the data,
    too."""
    data, model, validate = config["data"], architecture(config["model"]), config["validate"]
    task = task_of(config["task"]).described(config.get("facts", {}))
    size, start = data["size"], None if config["init"] == RANDOM else config["init"]
    best = validate["best"] or task.best.metric
    network = NetworkDescription(
        dict(config["model"]), model.name, model.dimensions, config["channels"] or model.channels, start,
        head=task.head,
    )  # fmt: skip
    return Description(
        command=FINETUNE,
        title="Fine-tuning run",
        trained=f"fine-tuned on {task.learned}",
        network=network,
        input=input_of(
            model.dimensions * (size,) if isinstance(size, int) else tuple(size), config["normalise"], data["range"]
        ),
        data=data_of(config),
        stages=stages_of(config, lambda terms: task.head == "dense"),
        terms=task.loss_terms,
        metrics={"loss": Metric("Total loss", "min"), **task.metrics},
        best=best,
        output=task.output,
        tensors=TENSORS[task.pooled],
        execution=execution(FINETUNE),
        unit=UNITS[model.dimensions],
        training=(*_training(config, best), *_normalised(task.output)),
        enough_steps=config["enough_steps"],
    )


TENSORS = {
    pooled: Tensors(
        "network", "optim.network", "network.encoder", None if pooled else "network.decoder", "network.head"
    )
    for pooled in (True, False)
}


def _normalised(output: Output) -> tuple[str, ...]:
    pairs = zip(output.names, output.normalised, strict=False)
    each = ", ".join(f"{name} {mean:.6g} and {deviation:.6g}" for name, (mean, deviation) in pairs)
    return (f"numbers normalised by the mean and the deviation of the training split: {each}",) if each else ()


def _protocol(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Say whose settings a run began with."""
    if not node.get("preset"):
        return ()
    differs = "; ".join(node["differs"].values())
    return (f"preset `{node['preset']}` for `{node['task']}`: {node['source']}; on purpose otherwise: {differs}",)


def chosen_rate(optim: Mapping[str, Any], split: str | None, best: str) -> tuple[str, ...]:
    """Say from which rates that of ``optim`` was chosen, and how."""
    if not optim.get("chosen"):
        return ()
    by_rate = {f"{rate:g}": "diverged" for rate in optim["choose"]}
    by_rate |= {rate: f"{figure:.4g}" for rate, figure in optim["chosen"].items()}
    figures = ", ".join(" ".join(pair) for pair in by_rate.items())
    share = "" if optim["choose_share"] == 1 else f" after {optim['choose_share']:g} of the epochs"
    return (f"{CHOSEN_RATE}{optim['optimizer']['lr']:g} by {best} on split `{split}`{share}: {figures}",)


def _frozen(config: Mapping[str, Any]) -> tuple[str, ...]:
    if not (frozen := config.get("frozen")):
        return ()
    but = nevertheless(config.get("trained"), config.get("lora", {}).get("rank", 0))  # older runs have neither
    return (f"frozen: {' and '.join(FROZEN[frozen])}{but}",)


def _training(config: Mapping[str, Any], best: str) -> tuple[str, ...]:
    data, optimizer = config["data"], config["optim"]["optimizer"]
    shown = ", ".join(f"`{name}` ({stage['epochs']:g} epochs)" for name, stage in config["stages"].items())
    share = f", {data['fraction']:g} of its patients" if data["fraction"] < 1 else ""
    return (
        *_protocol(config["protocol"]),
        f"initial weights: `{config['init']}`",
        *_frozen(config),
        f"stages of the run: {shown}; split `{data['split']}`{share}",
        *chosen_rate(config["optim"], data["val_split"], best),
        f"views of {data['size']} pixels, global batch {data['batch']}, seed {config['seed']}, optimizer "
        f"`{optimizer['_target_']}` with a rate of {optimizer['lr']:g}",
    )
