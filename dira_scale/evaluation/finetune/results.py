"""After training: the best checkpoint on the validation and test splits.

::

    results.json            the figures, the thresholds chosen on the validation split, the checkpoint's step
    cases/val.parquet       the rows of each case (``metrics.cases``)
    cases/test.parquet
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dira_scale.distributed.control import broadcast_from_main, gather_objects, raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine.task import StagePlan
from dira_scale.engine.watchdog import alive
from dira_scale.evaluation.finetune.config import Finetune
from dira_scale.evaluation.finetune.description import TENSORS, input_of
from dira_scale.evaluation.finetune.held_out import test_batches
from dira_scale.evaluation.finetune.supervision import SplitCases, Supervision
from dira_scale.metrics.cases import merged, write_cases
from dira_scale.metrics.figure import Figure
from dira_scale.models.network import moved
from dira_scale.models.normalise import normalised
from dira_scale.places.atomic import write_json
from dira_scale.runs import checkpoint
from dira_scale.runs.description import Input
from dira_scale.runs.folder import RunFolder
from dira_scale.training.held_out import HeldOutBatches
from dira_scale.training.inputs import Inputs
from dira_scale.training.validation import evaluating

FILE, CASES = "results.json", "cases"


def write_results(
    config: Finetune, world: World, supervision: Supervision, data: Inputs, stage: StagePlan, run: RunFolder | None
) -> None:
    """Evaluate, unless that is done. ``run``: on the main process only. Collective."""
    if broadcast_from_main(run is not None and (run.folder / FILE).exists()):
        return
    folder, validate = Path(config.run), config.validate
    network, step = raise_on_all(lambda: best_network(config, supervision, stage.name))
    network = moved(network, world.device, config.parallel.channels_last)
    input, splits = input_of(data.views.sides, config.normalise), dict[str, HeldOutBatches]()
    if (held_out := data.held_out(validate.batch, validate.batches, world.rank, world.ranks)) is not None:
        splits["val"] = held_out
    splits["test"] = test_batches(config, data, world.rank, world.ranks)
    names = {"val": data.data.val_split, "test": config.data.test_split}
    thresholds: Mapping[str, float] | None = None
    figures: dict[str, list[Figure]] = {}
    for name, batches in splits.items():
        about = SplitCases.of(data.datasets, str(names[name]))
        cases = merged(gather_objects(evaluate(world, supervision, network, batches, about, input)))
        if name == "val":
            thresholds = supervision.thresholds(cases)
        figures[name] = supervision.figures(cases, thresholds)
        if run is not None:
            run.lease.check()
            (folder / CASES).mkdir(exist_ok=True)
            write_cases(folder / CASES / f"{name}.parquet", cases)
    if run is not None:
        rows = {name: [_json(asdict(figure)) for figure in of] for name, of in figures.items()}
        about_run = {"step": step, "splits": {name: names[name] for name in splits}, "crops": config.evaluate.crops}
        write_json(folder / FILE, about_run | {"thresholds": _json(thresholds), "figures": rows}, run.lease.check)


def best_network(config: Finetune, supervision: Supervision, stage: str) -> tuple[nn.Module, int]:
    """The complete network with the weights of the stage's best checkpoint, and its step; where nothing was validated,
    of the newest one."""
    folder = Path(config.run)
    path = checkpoint.latest(folder) if config.data.val_split is None else checkpoint.best(folder, stage)
    tensors, prefix = checkpoint.load(path)[0], f"{TENSORS[supervision.pooled].module}."
    size = config.data.size if isinstance(config.data.size, int) else tuple(config.data.size)
    network = supervision.network(config.model, config.model.build_encoder(size, config.channels))
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return network, int(path.name)


@torch.no_grad()
def evaluate(
    world: World,
    supervision: Supervision,
    network: nn.Module,
    held_out: HeldOutBatches,
    about: SplitCases,
    input: Input,
) -> list[Any]:
    """This rank's cases; of several crops of an image the mean of their probabilities."""
    cases: list[Any] = []
    with evaluating(network):
        for stored, count in held_out.batches():
            alive()
            if not count:
                continue
            batch = stored.to(world.device)
            with world.autocast():
                views = [supervision.probabilities(network(normalised(view, input))) for view in batch.views]
            probabilities, targets = torch.stack(views).mean(0), supervision.targets(batch)
            cases += supervision.cases(about, batch.index[:count], probabilities[:count], targets[:count])
    return cases


def finetuning(output: Path) -> tuple[Iterator[tuple[str, float]], Mapping[str, Any]]:
    """Of a finished run for sweeps: ``SPLIT/METRIC/NAME``, and the configuration."""
    content = json.loads((output / FILE).read_text())
    figures = (
        (f"{split}/{figure['metric']}/{figure['name']}", figure["value"])
        for split, rows in content["figures"].items() for figure in rows if figure["value"] is not None
    )  # fmt: skip
    return figures, yaml.safe_load((output / "config.yaml").read_text())


def _json(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without NaN and infinity, which JSON does not have: null, and a word."""
    if row is None:
        return None
    return {name: _number(value) if isinstance(value, float) else value for name, value in row.items()}


def _number(value: float) -> float | str | None:
    return None if math.isnan(value) else value if math.isfinite(value) else "infinity"
