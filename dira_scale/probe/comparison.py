"""The `probe` command: matches data and encoders, scores each encoder, shows and writes figures."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from dira_scale import __version__
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.selection import nested_draws
from dira_scale.errors import UserError, nearest, without_commands
from dira_scale.evaluation.leak import NO_LEAK, UNKNOWN, Leak, Part, check_leak, sources_of
from dira_scale.evaluation.probe_figures import (
    AUC,
    R2,
    Probed,
    as_json,
    by_label,
    figures,
    markdown,
    overviews,
    rich_table,
)
from dira_scale.machine.console import Console
from dira_scale.metrics.cases import CASES, MaskCase, write_cases
from dira_scale.probe import dense
from dira_scale.probe import probing as probes
from dira_scale.probe.config import PROBES, USUAL, refuse_other_figures
from dira_scale.probe.pretext import pretext_task
from dira_scale.probe.probing import PARTS, Parts, ProbeTask
from dira_scale.probe.sources import Computed, Labelled, Stored
from dira_scale.runs.environment import environment
from dira_scale.storage.atomic import as_user_error, write_atomic, write_json
from dira_scale.storage.owned import check_own, own
from dira_scale.storage.text import without_tags

RANDOM = "Random encoders and raw pixels reach theirs without any pretraining: only figures above both show a benefit."
NOT_RANDOM = (
    "Embeddings of random weights (embed init=random) reach theirs without training: show them beside the others."
)
OF_FLAGS = "Figures are areas under the ROC curve in %, on the test part: 50 is chance."
OF_NUMBERS = "are R2 in %, on the test part: 0, or a little less, is what the mean of the training values reaches."
FEW = 100  # test images below which a figure says little: an AUC of .8 has a standard deviation of about .05 at 100


@dataclass(frozen=True)
class Comparison:
    """``compared``: the source of each row. ``notes``: how to read the figures, one sentence each. ``cases``: of masks,
    by row."""

    figures: list[Probed]
    compared: list[dict[str, Any]]
    data: dict[str, Any]
    config: dict[str, Any]
    notes: list[str]
    cases: list[list[MaskCase]] = field(default_factory=list)


def compare_and_show(cfg: DictConfig) -> None:
    """Print the table; write ``probe.json`` and ``probe.md`` to ``out``."""
    out = Path(cfg.out) if cfg.out else (Path(cfg.run) / "probe" if isinstance(cfg.run, str) else Path("out/probe"))
    with as_user_error(out, "out"):
        check_own(out, "a probe", "out", None if cfg.out or not isinstance(cfg.run, str) else Path(cfg.run))
        refuse_other_figures(out, cfg)
    result = compare(cfg)
    probes = dict.fromkeys(figure.probe for figure in result.figures)
    shown, first, *others = overviews(result.figures), *(by_label(result.figures, probe) for probe in probes)
    about = {"dira_scale": __version__, "commit": environment()["commit"], "config": result.config}
    rows = {"compared": result.compared, "figures": as_json(result.figures)}
    with as_user_error(out, "out"):
        own(out, "a probe", "out")
        for number, cases in enumerate(result.cases):
            (out / CASES).mkdir(exist_ok=True)
            write_cases(out / CASES / f"{number}.parquet", cases)
        write_json(out / "probe.json", about | {"data": result.data, "notes": result.notes} | rows)
    console = Console()
    for title, cells in shown + first:  # per label, the first probe only; probe.md has all
        console.print(rich_table(title, cells))
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    intro = [f"dira_scale {__version__}, commit {about['commit']}. {note}" for note in result.notes[:1]]
    lines = ["# Probe", "", *intro, "", *(f"- {note}" for note in result.notes[1:]), ""]
    with as_user_error(out, "out"):
        titled = sum(others, shown + first)
        page = "\n".join([*lines, *(markdown(title, cells) for title, cells in titled)])
        write_atomic(out / "probe.md", without_commands(without_tags(page)))
    console.print(f"probe.json and probe.md in {out}", markup=False, highlight=False)


def compare(cfg: DictConfig) -> Comparison:
    """Run the probe of ``configs/probe.yaml``.

    Raises UserError for missing labels or splits, runs that cannot share a table, an encoder that does not match its
    weights, or a level that it does not have.
    """
    fractions = sorted(set(cfg.fractions), reverse=True)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    source = Stored(config) if config["embeddings"] is not None else Computed(cfg, config)
    dataset: Labelled = source.dataset
    rows = _rows(dataset, cfg.data)
    leak = _leak(source, cfg, config["run"])
    if isinstance(source, Stored) and source.maps:
        masked = ShardedDataset.open(cfg.data.shards)
        results, about, cases = dense.compare(cfg, source, masked, rows)
        about = {"name": dataset.info.name, "hash": dataset.hash, "size": source.size} | about | {"leak": asdict(leak)}
        of_folders = [vars(of) for of in source.described]
        return Comparison(results, of_folders, about, config, [*_of_maps(about, cfg), *leak.lines], cases)
    left_out: dict[str, str] = {}
    if isinstance(source, Computed) and source.pretext:
        tasks = [pretext_task(cfg.pretext, source.pretext, _patients(dataset, rows))]
    else:
        tasks, left_out = _tasks(dataset, rows, cfg.labels)
    patients = tasks[0].patients
    draws = nested_draws(patients["train"], fractions, cfg.draws, cfg.seed)
    compared = source.features(rows)

    labelled = {fraction: float(np.mean([len(drawn) for drawn in sets])) for fraction, sets in draws.items()}
    kinds = cfg.probes or (USUAL if config["embeddings"] is None else PROBES)
    steps = [(i, task, parts) for i, (_, members) in enumerate(compared) for task in tasks for parts in members]
    scores: dict[tuple[int, str], list[Any]] = {}
    for i, task, parts in track(steps, "probes", transient=True):
        values = scores.setdefault((i, task.metric), [])
        values.append(probes.probe(parts, task, draws, cfg.c, cfg.k, kinds))
    results = [
        f
        for i, (of, _) in enumerate(compared)
        for task in tasks
        for f in figures(of, scores[i, task.metric], task.names, labelled, task.classes, task.metric)
    ]
    about = {
        "name": dataset.info.name, "hash": dataset.hash, "size": source.size,
        "labels": [name for task in tasks for name in task.names],
        "left_out": left_out,
        "numbers": [name for task in tasks if task.metric == R2 for name in task.names],
        "classes": [label for task in tasks for label in task.classes],
        "images": {part: len(rows[part]) for part in PARTS},
        "patients": {part: len(np.unique(patients[part])) for part in PARTS},
        "positive": {
            part: [int(n) for task in tasks if task.metric == AUC for n in np.nansum(task.labels[part], 0)]
            for part in PARTS
        },
        "leak": asdict(leak),
    }  # fmt: skip
    notes = [*_notes(source.encoder, about, results, cfg), *leak.lines]
    return Comparison(results, [vars(of) for of, _ in compared], about, config, notes)


def _rows(dataset: Labelled, data: DictConfig) -> Parts:
    """Row numbers of each part. Raises UserError for a split that is missing, empty or shares patients with another."""
    keys = dict(zip(PARTS, ("split", "val_split", "test_split"), strict=True))
    rows: Parts = {}
    for part, key in keys.items():
        if data[key] not in dataset.splits:
            have = ", ".join(dataset.splits)
            raise UserError(f"data.{key}={data[key]}: {dataset.root} has {have}{nearest(data[key], dataset.splits)}")
        rows[part] = dataset.rows(data[key])
        if not len(rows[part]):
            raise UserError(f"data.{key}={data[key]}: {dataset.root} has no image there")
    patients = {part: set(dataset.column("patient")[rows[part]]) for part in PARTS}
    for part, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := patients[part] & patients[other]:
            raise UserError(
                f"data.{keys[part]}={data[keys[part]]} and data.{keys[other]}={data[keys[other]]} of {dataset.root} "
                f"share {len(shared)} patients: splits must not share patients, or the reported scores are biased"
            )
    return rows


def _leak(source: Computed | Stored, cfg: DictConfig, run: str | list[str] | None) -> Leak:
    """Raises UserError for patients of the validation or test part that a compared encoder was trained on."""
    if isinstance(source, Stored):
        trained = [folder.root for folder in source.folders if folder.about.weights.kind != "random"]
        why = "embeddings do not say on which patients their weights were trained; probe run=… does"
        return Leak(UNKNOWN if trained else NO_LEAK, [f"patients: {UNKNOWN}: {root}: {why}" for root in trained])
    judged = [Part.of(source.dataset, cfg.data[key]) for key in ("val_split", "test_split")]
    named = [(path, "run") for path in ([run] if isinstance(run, str) else run or [])] + [(cfg.init, "init")]
    sources = [each for path, key in named for each in sources_of(path, key, [source.dataset])]
    return check_leak(judged, cfg.data.test_split, sources)


def _tasks(dataset: Labelled, rows: Parts, labels: Any) -> tuple[list[ProbeTask], dict[str, str]]:
    """Return the tasks to probe, yes and no apart from numbers, and the labels left out with the reason.

    A label that has any other value than 0, 1 and -1 in the three parts is a number. Raises UserError if no label is
    left.
    """
    names, flags = dataset.info.label_names, dataset.info.flags
    if not names:
        raise UserError(f"{dataset.root} has no labels: shard it again with recipe.labels=…, or probe another dataset")
    for name in labels or []:
        if name not in names:
            raise UserError(f"labels={name}: {dataset.root} has {', '.join(names)}{nearest(name, names)}")
    numbers = [names.index(name) for name in labels or names]
    columns = [column for number in numbers for column, flag in enumerate(flags) if flag.number == number]
    chosen = [flags[column].name for column in columns]
    values = {part: dataset.flags(rows[part])[:, columns] for part in PARTS}
    every = np.concatenate([*values.values()])
    number = (np.isfinite(every) & ~np.isin(every, (-1, 0, 1))).any(0)  # [L]; never of a class, which is yes or no
    known = {part: np.where(number, np.isfinite(v), (v == 0) | (v == 1)) for part, v in values.items()}
    values = {part: np.where(known[part], v, np.nan) for part, v in values.items()}  # uncertain: unknown
    left_out = {}
    for i, name in enumerate(chosen):
        single = [part for part in PARTS if len(np.unique(values[part][~np.isnan(values[part][:, i]), i])) < 2]
        if single:
            few = "fewer than two different values" if number[i] else "one class only"
            left_out[name] = f"{few} in {', '.join(single)}"
    kept = [i for i, name in enumerate(chosen) if name not in left_out]
    lost = [name for name in labels or [] if not any(names[flags[columns[i]].number] == name for i in kept)]
    if not kept or lost:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UserError(f"{dataset.root}: a label needs two different known values in every part ({reasons})")
    patients, tasks = _patients(dataset, rows), []
    for metric, of_metric in ((AUC, [i for i in kept if not number[i]]), (R2, [i for i in kept if number[i]])):
        classes: dict[str, list[int]] = {}
        for column, i in enumerate(of_metric):
            if flags[columns[i]].value is not None:
                classes.setdefault(names[flags[columns[i]].number], []).append(column)
        labelled = {part: v[:, of_metric] for part, v in values.items()}
        if of_metric:
            tasks.append(ProbeTask(tuple(chosen[i] for i in of_metric), labelled, patients, classes, metric))
    return tasks, left_out


def _patients(dataset: Labelled, rows: Parts) -> Parts:
    return {part: dataset.column("patient")[rows[part]].astype(str) for part in PARTS}


def _of_maps(about: dict[str, Any], cfg: DictConfig) -> list[str]:
    images = ", ".join(f"{part} {count} images" for part, count in about["images"].items())
    return [
        f"{about['name']}: {images} with a mask; the {cfg.masks.k} nearest cells of maps vote, T = "
        f"{cfg.masks.temperature:g}.",
        f"Figures are the Dice of each class in %, the mean over test images; {CASES}/0.parquet … have a row's images.",
        "In brackets: labelled images. The sd is over draws of labelled patients.",
        NOT_RANDOM,
    ]


def _notes(name: str, about: dict[str, Any], results: list[Probed], cfg: DictConfig) -> list[str]:
    images = ", ".join(f"{part} {about['images'][part]} images of {about['patients'][part]} patients" for part in PARTS)
    notes = [
        f"{about['name']}: {images}; {name} at {about['size']} pixels.",
        *([OF_FLAGS] if len(about["labels"]) > len(about["numbers"]) else []),
        *([f"Figures of {', '.join(about['numbers'])} {OF_NUMBERS}"] if about["numbers"] else []),
        "In brackets: labelled images. The sd is over encoders where n > 1, else over draws of labelled patients.",
        NOT_RANDOM if cfg.embeddings is not None else RANDOM,
    ]
    if (count := about["images"]["test"]) < FEW:
        notes.append(
            f"Only {count} test images: figures far apart, even 100.0, may be chance; compare on {FEW} or more."
        )
    if about["classes"]:
        notes.append(
            f"{', '.join(about['classes'])}: each class against all others, and the mean over classes; accuracy is "
            "the share of test images whose class gets the highest score, without images of classes left out; it "
            "needs two classes. An order of the classes is not used."
        )
    if cfg.pretext:
        notes.append(f"{cfg.pretext}: each image is seen in every class, and counts as often in the brackets.")
    if about["left_out"]:
        notes.append("Left out: " + "; ".join(f"{label} ({why})" for label, why in about["left_out"].items()) + ".")
    for metric, fits in ((AUC, "fits"), (R2, "fits of numbers")):
        at = [c for f in results if f.metric == metric for draws in f.c or [] for c in draws]
        edges = {edge: np.mean(np.isclose(at, edge)) for edge in (min(cfg.c), max(cfg.c))} if at else {}
        for edge, share in edges.items():
            if share > 0.5 and len(cfg.c) > 1:
                often = f"{100 * share:.0f} % of the {fits}"
                notes.append(f"C={edge:g}, at the edge of the grid `c`, was chosen in {often}: widen it.")
    unfinished = sum(f.unfinished for f in results)
    if unfinished:
        notes.append(f"{unfinished} logistic regressions did not converge in {probes.ITERATIONS} iterations.")
    return notes
