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
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import nn

from dira_scale.distributed.control import broadcast_from_main, gather_objects, raise_on_all
from dira_scale.engine.task import StagePlan
from dira_scale.engine.watchdog import alive
from dira_scale.evaluation.finetune.supervision import SplitCases
from dira_scale.metrics.cases import merged, write_cases
from dira_scale.metrics.figure import Figure
from dira_scale.models.network import moved
from dira_scale.places.atomic import write_json
from dira_scale.runs import checkpoint
from dira_scale.runs.folder import RunFolder
from dira_scale.training.held_out import HeldOutBatches
from dira_scale.training.validation import evaluating

if TYPE_CHECKING:
    from dira_scale.evaluation.finetune.task import FinetuneTask

FILE, CASES = "results.json", "cases"


def write_results(task: "FinetuneTask", stage: StagePlan, run: RunFolder | None) -> None:
    """Evaluate, unless that is done. ``run``: on the main process only. Collective."""
    from dira_scale.evaluation.finetune.task import test_batches

    config, world = task.config, task.world
    if broadcast_from_main(run is not None and (run.folder / FILE).exists()):
        return
    folder, data, validate = Path(config.run), task.data, config.validate
    network, step = raise_on_all(lambda: best_network(task, stage, folder))
    splits: dict[str, HeldOutBatches] = {}
    if (held_out := data.held_out(validate.batch, validate.batches, world.rank, world.ranks)) is not None:
        splits["val"] = held_out
    splits["test"] = test_batches(config, data, task.supervision, world.rank, world.ranks)
    names = {"val": data.data.val_split, "test": config.data.test_split}
    thresholds: Mapping[str, float] | None = None
    figures: dict[str, list[Figure]] = {}
    for name, batches in splits.items():
        about = SplitCases.of(data.datasets, str(names[name]))
        cases = merged(gather_objects(evaluate(task, network, batches, about)))
        if name == "val":
            thresholds = task.supervision.thresholds(cases)
        figures[name] = task.supervision.figures(cases, thresholds)
        if run is not None:
            run.lease.check()
            (folder / CASES).mkdir(exist_ok=True)
            write_cases(folder / CASES / f"{name}.parquet", cases)
    if run is not None:
        rows = {name: [_json(asdict(figure)) for figure in of] for name, of in figures.items()}
        about_run = {"step": step, "splits": {name: names[name] for name in splits}, "crops": config.evaluate.crops}
        write_json(folder / FILE, about_run | {"thresholds": _json(thresholds), "figures": rows}, run.lease.check)


def best_network(task: "FinetuneTask", stage: StagePlan, folder: Path) -> tuple[nn.Module, int]:
    """The complete network with the weights of the best checkpoint, or of the newest where nothing was validated."""
    path = checkpoint.best(folder, stage.name) if task.validation else checkpoint.latest(folder)
    tensors, _ = checkpoint.load(path)
    model, prefix = task.config.model, f"{task.tensors.module}."
    network = task.supervision.network(model, model.build_encoder(task.data.views.size))
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return moved(network, task.world.device, task.config.parallel.channels_last), int(path.name)


@torch.no_grad()
def evaluate(task: "FinetuneTask", network: nn.Module, held_out: HeldOutBatches, about: SplitCases) -> list[Any]:
    """This rank's cases; of several crops of an image the mean of their probabilities."""
    supervision, cases = task.supervision, list[Any]()
    with evaluating(network):
        for stored, count in held_out.batches():
            alive()
            if not count:
                continue
            batch = stored.to(task.world.device)
            with task.world.autocast():
                views = [supervision.probabilities(network(view)) for view in batch.views]
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
