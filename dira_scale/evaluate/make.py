"""The ``python -m dira_scale.evaluate`` command: evaluates the best checkpoint of a fine-tuned run on a split of any
dataset, as on the run's own test split.

::

    cases/test.parquet  the rows of each case (metrics.cases)
    cases/test-0.jpg …  some masks and what is predicted, as outlines
    report.html         the figures with their intervals, on a page
    config.yaml         the resolved configuration
    environment.json    versions, commit, machine
    results.json        the network, the data, the figures, as a run's (evaluation.results). Written last
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dira_scale import __version__
from dira_scale.base.config.border import advised, at
from dira_scale.base.errors import UserError, counted, nearest, print_line
from dira_scale.base.machine.device import compute_device
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import as_user_error, write_atomic, write_json
from dira_scale.base.storage.owned import own
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import CASES
from dira_scale.dataset.metrics.figure import MEAN
from dira_scale.evaluate.config import Evaluation
from dira_scale.judge.evaluation.config import require_masks
from dira_scale.judge.evaluation.finetuned_network import TrainedRun, unfinished
from dira_scale.judge.evaluation.held_out_split import HeldOutSplit
from dira_scale.judge.evaluation.journal import is_complete
from dira_scale.judge.evaluation.judge import judged, write_split
from dira_scale.judge.evaluation.leak import NO_LEAK, Part, check_leak, sources_of
from dira_scale.judge.evaluation.results import FILE, overall, with_figures
from dira_scale.judge.pages.results import ShownResults
from dira_scale.judge.pages.template import template
from dira_scale.judge.pages.verdict import Headline
from dira_scale.judge.tasks.predictions import SplitCases
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.batch import UNITS
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import AUTO
from dira_scale.train.data.loaders.build import choose as choose_loader
from dira_scale.train.data.order import EvalOrder
from dira_scale.train.data.samples import Samples
from dira_scale.train.distributed.processes import default_workers
from dira_scale.train.held_out import DistributedEvalOrder, HeldOutBatches
from dira_scale.train.runs.environment import environment

PAGE = "report.html"


def page(
    out: Path, trained: TrainedRun, dataset: ShardedDataset, supervision: Supervision, content: Mapping[str, Any]
) -> str:
    """Return the page of ``content``, which is to become ``results.json``, and of the cases in ``out``."""
    read = with_figures(content)
    shown = ShownResults.of(out, read, supervision.outputs)
    headlines = []
    for figure in overall(read["figures"]["test"], supervision.best.metric):
        over = f"mean (n = {figure.n})" if figure.name == MEAN else figure.name
        interval = "{:.3f} to {:.3f}, the interval over patients".format(*figure.interval) if figure.interval else ""
        headlines.append(Headline(figure.in_words(), f"{over}, {counted(figure.patients, 'patient')}", interval))
    return template(Path(__file__).with_name("page.html.j2")).render(
        about=content,
        checked=content["leak"]["verdict"] == NO_LEAK,
        facts=_facts(trained, dataset, supervision, read),
        headlines=headlines,
        shown=shown,
        version=__version__,
        volumes=len(trained.size) == 3,
    )


def _facts(
    trained: TrainedRun, dataset: ShardedDataset, supervision: Supervision, content: Mapping[str, Any]
) -> dict[str, str]:
    info, split, chosen = dataset.info, content["splits"]["test"], trained.chosen
    seen = f"crops={content['crops']}" if supervision.pooled else f"window={content['window']}"
    as_there = ", as the run's own test split" * (supervision.pooled or content["window"] == trained.window)
    left_out = content.get("without_mask", {}).get("test")
    facts = {
        "network": f"`{content['network']}`, checkpoint of step {content['step']} (stage {content['stage']}), "
        f"weights `{content['weights']}`",
        "data": f"`{info.name}`, split {split}, {info.counts[split]} {UNITS[len(trained.size)]}"
        + (f", {left_out} without a mask left out" if left_out else "")
        + f"; content `{dataset.hash[:12]}`, licence {info.licence}",
        supervision.learned: ", ".join(supervision.outputs),
        "seen": f"{' × '.join(map(str, trained.size))}, {seen}{as_there}",
    }
    for name, values in (("thresholds", chosen.thresholds), ("temperatures", chosen.temperatures)):
        if values:
            listed = ", ".join(f"{label} {value:.3g}" for label, value in values.items() if not isnan(value))
            facts[name] = f"{listed}: chosen on the run's validation split"
    return facts


KIND = "evaluations"  # of the folder


def make(cfg: DictConfig) -> None:
    """Evaluate, unless that is done. Raises UserError, unless a sample is damaged before anything is written."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Evaluation)
    out, trained = Path(config.out), TrainedRun.of(Path(config.run))
    require_masks(config.window, trained.supervision.pooled, trained.supervision.learned)
    dataset = ShardedDataset.open(config.data.shards)
    supervision = _supervision(config, trained, dataset)
    window = config.window or trained.window
    seen = {"crops": trained.about["evaluate"]["crops"]} if supervision.pooled else {"window": window}
    about = {name: trained.about[name] for name in ("network", "stage", "step")} | {"weights": trained.hash, **seen}
    about |= {"data": {"dataset": dataset.info.name, "hash": dataset.hash, "split": config.data.split}}
    if is_complete(out, KIND, FILE, about):
        print_line(f"{out} is complete: nothing is left to evaluate")
        return
    for line in unfinished(Path(config.run), trained.about["step"]):
        print_line(line)
    part = Part.of(dataset, config.data.split)
    leak = check_leak([part], config.data.split, [*sources_of(config.run, "run", [dataset])])
    with _split(config, trained, dataset, supervision, window) as split:
        with as_user_error(out, "out"):
            own(out, KIND, "out")
        cases = split.cases(supervision, trained.network)
    content = {"dira_scale": __version__, **about, "splits": {"test": config.data.split}}
    content |= judged(supervision, {"test": cases}, trained.chosen)
    content |= {} if supervision.pooled else {"without_mask": {"test": split.without_mask(cases)}}
    content |= {"leak": asdict(leak)}
    with as_user_error(out, "out"):
        write_split(out, "test", cases, split.pictures)
        write_atomic(out / PAGE, page(out, trained, dataset, supervision, content))
        write_atomic(out / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
        write_json(out / "environment.json", environment())
        write_json(out / FILE, content)
    figures = overall(with_figures(content)["figures"]["test"], supervision.best.metric)
    words = ", ".join(figure.with_interval() for figure in figures) or "no figure over all labels"
    print_line(f"{dataset.info.name}, split '{config.data.split}': {words}")
    if without := content.get("without_mask", {}).get("test"):
        print_line(f"left out: {counted(without, 'sample')} without a mask")
    if supervision.output.activation == "sigmoid" and supervision.pooled and content["thresholds"] is None:
        print_line("thresholds: the run has chosen none on a validation split, so there are no figures that need one")
    for line in leak.lines:
        print_line(line)
    print_line(f"{FILE}, {PAGE} and {CASES}/ in {out}")


def _supervision(config: Evaluation, trained: TrainedRun, dataset: ShardedDataset) -> Supervision:
    """Return what is evaluated on the split. Raises UserError for a dataset that the network cannot be judged by."""
    dataset.require(len(trained.size), "this network")
    split, filled = config.data.split, [name for name in dataset.splits if len(dataset.rows(name))]
    if split not in filled:
        raise UserError(f"data.split={split}: {dataset.root} has {', '.join(filled)}{nearest(split, filled)}")
    trained.require_channels(dataset, [split])
    trained.require_fit(Samples([dataset], split))
    try:
        return trained.task.evaluated(trained.about["facts"], dataset, split)
    except UserError as error:
        learned = ", ".join(trained.supervision.outputs)
        asked = f"run={config.run} has learned {learned}, and all of it is asked for"
        raise UserError(f"{asked}: {advised(error)}") from error


@contextmanager
def _split(
    config: Evaluation, trained: TrainedRun, dataset: ShardedDataset, supervision: Supervision, window: str
) -> Iterator[HeldOutSplit]:
    """The split, and a bar of how much of it was seen. Raises UserError for one that loaders cannot read."""
    device = compute_device()
    views, about = trained.views, SplitCases([dataset], config.data.split)
    size, batch = len(about.keys), max(1, config.batch // views.count)
    workers = config.data.workers or default_workers(device)
    order = DistributedEvalOrder(size, batch, EvalOrder(size, batch).steps, rank=0, ranks=1)
    spec = LoaderSpec(
        [dataset], config.data.split, order, views, seed=0, workers=workers, fixed_epoch=0, device=device,
        **supervision.loader_arguments,
    )  # fmt: skip
    with at("data.shards"):
        loader = choose_loader(AUTO, [dataset], device)
        held_out = HeldOutBatches(loader.build(spec, loader.processes(None, device, workers)), order)
    predicted = trained.predictor(device, channels_last=None)  # as runs have it, by default
    with bar("evaluating", UNITS[views.dimensions]) as shown:
        task = shown.add_task("", total=size)
        yield HeldOutSplit(
            [dataset], about, predicted, device, held_out, trained.size, trained.stored, window, workers,
            shows=True, advance=lambda count: shown.advance(task, count),
        )  # fmt: skip
