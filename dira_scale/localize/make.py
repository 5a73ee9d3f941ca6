"""The ``python -m dira_scale.localize`` command: computes Grad-CAM of every image with boxes, for each of their labels.

It writes ``results.json``, accuracies, last; ``boxes.parquet``, a row for each box of the dataset; ``pictures/``.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dira_scale import __version__
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.base.storage.owned import own
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.evaluation.journal import FILE as UNFINISHED
from dira_scale.judge.evaluation.journal import Journal, is_complete, journal, rows_are_kept
from dira_scale.judge.evaluation.leak import Part, check_leak, sources_of
from dira_scale.judge.pages.probe_figures import rich_table
from dira_scale.localize.cases import BoxedImages, cases_of, not_of_labels
from dira_scale.localize.config import Localize
from dira_scale.localize.look import Localizer, draw
from dira_scale.localize.results import BOXES, CONFIG, FILE, INTERVAL, LocatedBox, cells, figures, write_boxes
from dira_scale.train.data.batch import UNITS
from dira_scale.train.distributed.processes import default_workers
from dira_scale.train.runs.environment import environment

FOLDER = "pictures"
KIND = "localizations"  # of the folder


def make(cfg: DictConfig) -> None:
    """Look at what is not yet looked at. Raises UserError."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Localize)
    out, split = Path(config.out), config.data.split
    trained = TrainedRun.of(Path(config.run))
    if not trained.supervision.output.of_classes or not trained.supervision.pooled:
        raise UserError(not_of_labels(config.run, f"fine-tuned on {trained.supervision.learned}"))
    dataset = ShardedDataset.open(config.data.shards)
    dataset.require(len(trained.size), "this network")
    trained.require_channels(dataset, [split] if split in dataset.splits else [])
    cases = cases_of(dataset, split, trained.supervision.outputs, config.labels)
    about = {name: trained.about[name] for name in ("network", "stage", "step")} | {"weights": trained.hash}
    about |= {"data": {"dataset": dataset.info.name, "hash": dataset.hash, "split": split}, "labels": [*cases.labels]}
    about |= {name: getattr(config, name) for name in ("intensities", "thresholds", "pictures")}
    if is_complete(out, KIND, FILE, about):
        print_line(f"{out} is complete: nothing is left to do")
        return
    judged = Part(dataset, split, frozenset(case.patient for case in cases.images))
    leak = check_leak([judged], split, [*sources_of(config.run, "run", [dataset])])
    localizer = Localizer(trained, dataset, split, config.intensities)
    with rows_are_kept(out):
        own(out, KIND, "out")
        (out / FOLDER).mkdir(exist_ok=True)
        with journal(out, about) as rows:
            write_atomic(out / CONFIG, yaml.safe_dump(asdict(config), sort_keys=False))
            write_json(out / "environment.json", environment())
            _look(config, localizer, cases, rows)
            _finish(config, cases, rows, about | {"leak": asdict(leak)})


def _look(config: Localize, localizer: Localizer, cases: BoxedImages, rows: Journal) -> None:
    """One image after another, so that those of a second call are as they would have been in the first."""
    todo = [case for case in cases.images if case.key not in rows.done]
    of_labels = [(label, [case.key for case in cases.images if label in case.boxes]) for label in cases.labels]
    drawn = {(key, label) for label, keys in of_labels for key in keys[: config.pictures]}  # whatever comes out
    workers = config.data.workers or default_workers(localizer.device)
    with bar("localizing", UNITS[len(localizer.trained.size)]) as shown:
        task = shown.add_task("", total=len(cases.images), completed=len(cases.images) - len(todo))
        for case, stored, view in localizer.views(todo, workers):
            made: list[LocatedBox] = []
            for label, boxes in case.boxes.items():
                seen = localizer.look(stored, view, label)
                made += (of_label := [seen.row(case, label, box) for box in boxes])
                if (case.key, label) in drawn:
                    path = Path(config.out) / FOLDER / f"{re.sub(r'[^A-Za-z0-9]+', '_', label)}-{case.key}.png"
                    write_atomic(path, draw(view, seen, of_label))
            rows.add(case.key, {"boxes": [asdict(row) for row in made]})
            shown.advance(task)


def _finish(config: Localize, cases: BoxedImages, done: Journal, about: Mapping[str, Any]) -> None:
    """Write the rows and the figures, and show these."""
    out = Path(config.out)
    rows = [LocatedBox(**values) for case in cases.images for values in done.done[case.key]["boxes"]]
    rows.sort(key=lambda row: cases.labels.index(row.label))
    write_boxes(out / BOXES, rows)
    made, empty = figures(rows, config.thresholds), sum(row.regions == 0 for row in rows)
    counts = {"images": len(cases.images), "boxes": len(rows), "patients": len({row.patient for row in rows})}
    facts = {"without_region": empty, "left_out": dict(cases.left_out), "interval": INTERVAL}
    facts |= {"splits": {"test": config.data.split}, "figures": {"test": [figure.as_json() for figure in made]}}
    write_json(out / FILE, {"dira_scale": __version__, **about, **counts, **facts})
    (out / UNFINISHED).unlink()
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(rich_table("accuracy in per cent, by the intersection over union", cells(made)))
    lines = [*about["leak"]["lines"]]
    if listed := ", ".join(f"{name} ({count})" for name, count in cases.left_out.items()):
        lines.append(f"left out: boxes of labels that were not asked for or not learned: {listed}")
    if empty:
        lines.append(f"{empty} of {len(rows)} boxes: no region, as nothing in the image speaks for the label")
    for line in [*lines, f"{FILE}, {BOXES} and {FOLDER}/ in {out}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
