"""The parts of a run's description that all tasks on sharded datasets share."""

from collections.abc import Callable, Mapping
from typing import Any

from dira_scale.train.runs.description import DataDescription, Dataset, StageDescription


def data_of(config: Mapping[str, Any]) -> DataDescription:
    """Return the datasets, the splits and the number of held-out images of a resolved configuration."""
    data, validate = config["data"], config["validate"]
    shards = data["shards"]  # a path, a list of them or path: weight
    paths = [shards] if isinstance(shards, str) else [*dict.fromkeys(shards)]
    read = config.get("datasets", [{"hash": ""}] * len(paths))  # none before the run has begun
    datasets = tuple(
        Dataset(path, dataset["hash"], dataset.get("weight", 1.0)) for path, dataset in zip(paths, read, strict=True)
    )
    limit = validate["batches"] and validate["batch"] * validate["batches"]
    return DataDescription(datasets, data["split"], data["val_split"], limit)


def stages_of(config: Mapping[str, Any], decodes: Callable[[Any], bool]) -> tuple[StageDescription, ...]:
    """Return the stages that are trained. ``decodes``: whether one of these terms trains a decoder."""
    return tuple(
        StageDescription(name, tuple(stage["terms"]), stage["epochs"] * config["epoch_factor"], decodes(stage["terms"]))
        for name, stage in config["stages"].items() if stage["epochs"] > 0
    )  # fmt: skip
