"""The description of a fine-tuning run: from its configuration alone, so of a run that is planned, too."""

from collections.abc import Mapping
from typing import Any

from dira_scale.finetune.config import FROZEN, nevertheless
from dira_scale.judge.evaluation.config import BY_VOLUMES
from dira_scale.judge.tasks.task import FINETUNE, task_of
from dira_scale.train.data.batch import UNITS
from dira_scale.train.description import data_of, stages_of
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.normalise import input_of
from dira_scale.train.models.start import RANDOM
from dira_scale.train.runs.description import CHOSEN_RATE, Description, Metric, NetworkDescription, Tensors
from dira_scale.train.runs.identity import execution


def describe(config: Mapping[str, Any]) -> Description:
    """Describe a run of the resolved ``config``: composed, or recorded, which has what the task knows of the data,
    too."""
    data, model, validate = config["data"], architecture(config["model"]), config["validate"]
    task = task_of(config["task"]).described(config.get("facts", {}))
    size, start = data["size"], None if config["init"] == RANDOM else config["init"]
    by_volumes = validate["best"] is None and validate.get("volumes")  # older runs have no such key
    volumes = {BY_VOLUMES.compared: OF_VOLUMES} if by_volumes else {}
    best = validate["best"] or next(iter(volumes), task.best.metric)
    pairs = zip(task.output.names, task.output.normalised, strict=False)
    normalised = [f"{name} {mean:.6g} and {deviation:.6g}" for name, (mean, deviation) in pairs]
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
        metrics={"loss": Metric("Total loss", "min"), **volumes, **task.metrics},
        best=best,
        output=task.output,
        tensors=TENSORS[task.pooled],
        execution=execution(FINETUNE),
        unit=UNITS[model.dimensions],
        training=(*_training(config, best), *([f"{NORMALISED}: {', '.join(normalised)}"] if normalised else [])),
        enough_steps=config["enough_steps"],
    )


OF_VOLUMES = Metric("Dice of whole volumes, mean over classes and volumes, moving average over validations", "max")
NORMALISED = "numbers normalised by the mean and the deviation of the training split"
TENSORS = {
    pooled: Tensors(
        "network", "optim.network", "network.encoder", None if pooled else "network.decoder", "network.head"
    )
    for pooled in (True, False)
}


def chosen_rate(optim: Mapping[str, Any], split: str | None, best: str) -> tuple[str, ...]:
    """Say from which rates that of ``optim`` was chosen, and how."""
    if not optim.get("chosen"):
        return ()
    by_rate = {f"{rate:g}": "diverged" for rate in optim["choose"]}
    by_rate |= {rate: f"{figure:.4g}" for rate, figure in optim["chosen"].items()}
    figures = ", ".join(" ".join(pair) for pair in by_rate.items())
    share = "" if optim["choose_share"] == 1 else f" after {optim['choose_share']:g} of the epochs"
    return (f"{CHOSEN_RATE}{optim['optimizer']['lr']:g} by {best} on split `{split}`{share}: {figures}",)


def _training(config: Mapping[str, Any], best: str) -> list[str]:
    data, optimizer, protocol, lines = config["data"], config["optim"]["optimizer"], config["protocol"], list[str]()
    if protocol.get("preset"):
        whose = f"preset `{protocol['preset']}` for `{protocol['task']}`: {protocol['source']}"
        lines.append(f"{whose}; on purpose otherwise: {'; '.join(protocol['differs'].values())}")
    lines.append(f"initial weights: `{config['init']}`")
    if frozen := config.get("frozen"):
        but = nevertheless(config.get("trained"), config.get("lora", {}).get("rank", 0))  # older runs have neither
        lines.append(f"frozen: {' and '.join(FROZEN[frozen])}{but}")
    shown = ", ".join(f"`{name}` ({stage['epochs']:g} epochs)" for name, stage in config["stages"].items())
    share = f", {data['fraction']:g} of its patients" if data["fraction"] < 1 else ""
    return [
        *lines,
        f"stages of the run: {shown}; split `{data['split']}`{share}",
        *chosen_rate(config["optim"], data["val_split"], best),
        f"views of {data['size']} pixels, global batch {data['batch']}, seed {config['seed']}, optimizer "
        f"`{optimizer['_target_']}` with a rate of {optimizer['lr']:g}",
    ]
