"""After training: the best checkpoint on the validation and test splits.

::

    results.json            the figures, the thresholds and temperatures of the validation split, the checkpoint's step,
                            whether patients that are evaluated on were trained on
    cases/val.parquet       the rows of each case (``metrics.cases``)
    cases/test.parquet
    cases/test-0.jpg …      some of the test split's masks and what is predicted, as outlines
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from dira_scale.distributed.control import broadcast_from_main, gather_objects, raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine.task import StagePlan
from dira_scale.evaluation.leak import Leak
from dira_scale.finetune.cases import evaluate, evaluate_masks
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import TENSORS
from dira_scale.finetune.held_out import judged_batches
from dira_scale.metrics.cases import CASES, merged, write_cases
from dira_scale.metrics.statistics.intervals import LEVEL, RESAMPLES, intervals
from dira_scale.models.network import moved
from dira_scale.models.normalise import input_of
from dira_scale.runs import checkpoint
from dira_scale.runs.folder import RunFolder
from dira_scale.runs.results import FILE, in_words, overall, read_results
from dira_scale.storage.atomic import write_atomic, write_json
from dira_scale.tasks.calibration import calibrated, temperatures
from dira_scale.tasks.classification import Classification
from dira_scale.tasks.segmentation import Segmentation
from dira_scale.tasks.supervision import SplitCases, Supervision
from dira_scale.training.inputs import Inputs


def write_results(
    config: Finetune,
    world: World,
    supervision: Supervision,
    data: Inputs,
    stage: StagePlan,
    run: RunFolder | None,
    leak: Leak | None,
) -> None:
    """Evaluate, unless that is done. ``run`` and ``leak``: on the main process only. Collective."""
    if broadcast_from_main(run is not None and (run.folder / FILE).exists()):
        return
    folder = Path(config.run)
    network, step = raise_on_all(lambda: best_network(config, supervision, stage.name))
    network = moved(network, world.device, config.parallel.channels_last)
    input = input_of(data.views.sides, config.normalise)
    keys = ("val_split", "test_split") if config.data.val_split is not None else ("test_split",)
    splits = {
        key.removesuffix("_split"): judged_batches(config, data, key, world.rank, world.ranks) for key in keys
    }  # fmt: skip
    names = {"val": data.data.val_split, "test": config.data.test_split}
    window = config.evaluate.window_of(data.views.dimensions)
    cases, without_mask = dict[str, list[Any]](), dict[str, int]()
    for name, batches in splits.items():
        about = SplitCases.of(data.datasets, str(names[name]))
        asked = world, supervision, network, batches, about, input
        if isinstance(supervision, Segmentation):
            pictures: dict[str, bytes] | None = {} if run is not None and name == "test" else None
            part = evaluate_masks(world, supervision, *asked[2:], data, window, pictures)
            for number, image in enumerate((pictures or {}).values()):
                (folder / CASES).mkdir(exist_ok=True)
                write_atomic(folder / CASES / f"test-{number}.jpg", image)
        else:
            part = evaluate(*asked)
        cases[name] = merged(gather_objects(part))
        if not supervision.pooled:
            order = batches.order
            seen = min(order.batches * order.batch, order.size)
            without_mask[name] = seen - len({case.key for case in cases[name]})
        if run is not None:
            run.lease.check()
            (folder / CASES).mkdir(exist_ok=True)
            write_cases(folder / CASES / f"{name}.parquet", cases[name])
    if run is None:
        return
    content = {"step": step, "splits": {name: names[name] for name in splits}} | _judged(supervision, cases)
    if supervision.pooled:
        content["crops"] = config.evaluate.crops
    else:
        content |= {"window": window, "without_mask": without_mask}
    if leak is not None:
        content["leak"] = asdict(leak)
    if config.evaluate.temperature:
        assert isinstance(supervision, Classification), "checked"
        exclusive = supervision.labels.exclusive
        fitted = temperatures(cases["val"], exclusive)
        cases = {name: calibrated(of, fitted, exclusive) for name, of in cases.items()}
        content |= {"temperatures": fitted, "calibrated": _judged(supervision, cases)}
    write_json(folder / FILE, content, run.lease.check)


def summary(folder: Path, best: str) -> str:
    """The test split's figures over all labels or classes, in a line."""
    content = read_results(folder)
    words = ", ".join(map(in_words, overall(content["figures"]["test"], best))) or "no figure over all labels"
    return f"test split '{content['splits']['test']}', checkpoint of step {content['step']}: {words} ({FILE})"


def _judged(supervision: Supervision, cases: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The thresholds chosen on the validation split's cases, and the figures of each split."""
    thresholds = supervision.thresholds(cases["val"]) if "val" in cases else None
    figures = dict[str, list[dict[str, Any]]]()
    for split, of in cases.items():
        rows = supervision.figures(of, thresholds)
        ends = intervals(of, [(row.metric, row.name) for row in rows], **supervision.judged(thresholds))
        figures[split] = [
            _json(asdict(row)) | {"interval": _interval(row.value, ends[row.metric, row.name])} for row in rows
        ]
    about = {"level": LEVEL, "over": "patients", "method": "percentile bootstrap", "resamples": RESAMPLES}
    never = {split: supervision.never_answered(of) for split, of in cases.items()}
    return {
        "thresholds": None if thresholds is None else _json(thresholds),
        "interval": about,
        "never_answered": never,
        "figures": figures,
    }


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


def finetuning(output: Path) -> tuple[Iterator[tuple[str, float]], Mapping[str, Any]]:
    """Of a finished run for sweeps: ``SPLIT/METRIC/NAME``, and the configuration."""
    content = json.loads((output / FILE).read_text())
    figures = (
        (f"{split}/{figure['metric']}/{figure['name']}", figure["value"])
        for split, rows in content["figures"].items() for figure in rows if figure["value"] is not None
    )  # fmt: skip
    return figures, yaml.safe_load((output / "config.yaml").read_text())


def _interval(value: float, ends: tuple[float, float]) -> list[float] | None:
    """None where figure or interval has no value."""
    return [*ends] if np.isfinite([value, *ends]).all() else None


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN and infinity, which JSON does not have: null, and a word."""
    return {name: _number(value) if isinstance(value, float) else value for name, value in row.items()}


def _number(value: float) -> float | str | None:
    return None if math.isnan(value) else value if math.isfinite(value) else "infinity"
