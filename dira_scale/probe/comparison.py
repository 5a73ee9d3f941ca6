"""The `probe` command: matches data and encoders, scores each encoder, shows and writes figures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from dira_scale import __version__
from dira_scale.base.errors import UserError, nearest, without_commands
from dira_scale.base.machine.console import Console
from dira_scale.base.storage.atomic import as_user_error, write_atomic, write_json
from dira_scale.base.storage.owned import check_own, own
from dira_scale.base.storage.text import without_tags
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import CASES, MaskCase, write_cases
from dira_scale.dataset.metrics.classification import AUROC
from dira_scale.dataset.metrics.regression import R2
from dira_scale.judge.evaluation.leak import NO_LEAK, UNKNOWN, Leak, Part, check_leak, sources_of
from dira_scale.judge.pages.probe_figures import (
    FILE,
    FORMAT,
    Fit,
    ProbeFigure,
    as_json,
    by_label,
    figures,
    markdown,
    overviews,
    rich_table,
)
from dira_scale.probe import dense
from dira_scale.probe.config import PROBES, USUAL, refuse_other_figures
from dira_scale.probe.notes import label_notes, map_notes
from dira_scale.probe.pretext import pretext_task
from dira_scale.probe.probing import PARTS, Parts, ProbeTask, probe
from dira_scale.probe.sources import ComputedFeatures, Labelled, StoredFeatures
from dira_scale.train.data.selection import nested_draws
from dira_scale.train.runs.environment import environment


def compare_and_show(cfg: DictConfig) -> None:
    """Print the table; write ``probe.json`` and ``probe.md`` to ``out``."""
    out = Path(cfg.out) if cfg.out else (Path(cfg.run) / "probe" if isinstance(cfg.run, str) else Path("out/probe"))
    with as_user_error(out, "out"):
        check_own(out, "a probe", "out", None if cfg.out or not isinstance(cfg.run, str) else Path(cfg.run))
        refuse_other_figures(out, cfg)
    results, about, by_row = compare(cfg)
    first, *others = (by_label(results, probe) for probe in dict.fromkeys(figure.probe for figure in results))
    printed = overviews(results) + first  # per label, the first probe only; probe.md has all
    commit, notes = environment()["commit"], about["notes"]
    content = {"format": FORMAT, "dira_scale": __version__, "commit": commit, **about, "figures": as_json(results)}
    with as_user_error(out, "out"):
        own(out, "a probe", "out")
        for number, cases in enumerate(by_row):
            (out / CASES).mkdir(exist_ok=True)
            write_cases(out / CASES / f"{number}.parquet", cases)
        write_json(out / FILE, content)
    console = Console()
    for title, cells in printed:
        console.print(rich_table(title, cells))
    for note in notes:
        console.print(note, markup=False, highlight=False)
    intro = f"dira_scale {__version__}, commit {commit}. {notes[0]}"
    lines = ["# Probe", "", intro, "", *(f"- {note}" for note in notes[1:]), ""]
    with as_user_error(out, "out"):
        page = "\n".join([*lines, *(markdown(title, cells) for title, cells in sum(others, printed))])
        write_atomic(out / "probe.md", without_commands(without_tags(page)))
    console.print(f"{FILE} and probe.md in {out}", markup=False, highlight=False)


def compare(cfg: DictConfig) -> tuple[list[ProbeFigure], dict[str, Any], list[list[MaskCase]]]:
    """Run the probe of ``configs/probe.yaml``: the figures, what ``probe.json`` says of them, and of masks the cases by
    row.

    Raises UserError for missing labels or splits, runs that cannot share a table, an encoder that does not match its
    weights, or a level that it does not have.
    """
    fractions = sorted(set(cfg.fractions), reverse=True)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    source = StoredFeatures(config) if config["embeddings"] is not None else ComputedFeatures(cfg, config)
    dataset: Labelled = source.dataset
    rows = _rows(dataset, cfg.data)
    leak = _leak(source, cfg, config["run"])
    if isinstance(source, StoredFeatures) and source.maps:
        masked = ShardedDataset.open(cfg.data.shards)
        results, about, cases = dense.compare(cfg, source, masked, rows)
        about = {"name": dataset.info.name, "hash": dataset.hash, "size": source.size} | about | {"leak": asdict(leak)}
        notes, of_folders = [*map_notes(about, cfg), *leak.lines], [vars(of) for of in source.described]
        return results, {"config": config, "data": about, "notes": notes, "compared": of_folders}, cases
    left_out: dict[str, str] = {}
    if isinstance(source, ComputedFeatures) and source.pretext:
        tasks = [pretext_task(cfg.pretext, source.pretext, _patients(dataset, rows))]
    else:
        tasks, left_out = _tasks(dataset, rows, cfg.labels)
    patients = tasks[0].patients
    draws = nested_draws(patients["train"], fractions, cfg.draws, cfg.seed)
    compared = source.features(rows)

    labelled = {fraction: float(np.mean([len(drawn) for drawn in sets])) for fraction, sets in draws.items()}
    kinds = cfg.probes or (USUAL if config["embeddings"] is None else PROBES)
    steps = [(i, task, parts) for i, (_, members) in enumerate(compared) for task in tasks for parts in members]
    fits: dict[tuple[int, str], list[dict[tuple[str, float], list[Fit]]]] = {}
    unfinished = 0
    for i, task, parts in track(steps, "probes", transient=True):
        of_encoder = probe(parts, task, draws, cfg.c, cfg.k, kinds)
        fits.setdefault((i, task.metric), []).append(of_encoder)
        unfinished += sum(fit.unfinished for of_draws in of_encoder.values() for fit in of_draws)
    results = [
        figure
        for i, (features, _) in enumerate(compared)
        for task in tasks
        for figure in figures(features, fits[i, task.metric], labelled)
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
            part: [int(n) for task in tasks if task.metric == AUROC for n in np.nansum(task.labels[part], 0)]
            for part in PARTS
        },
        "leak": asdict(leak),
    }  # fmt: skip
    notes = [*label_notes(source.encoder, about, results, unfinished, cfg), *leak.lines]
    of_rows = [vars(of) for of, _ in compared]
    return results, {"config": config, "data": about, "notes": notes, "compared": of_rows}, []


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


def _leak(source: ComputedFeatures | StoredFeatures, cfg: DictConfig, run: str | list[str] | None) -> Leak:
    """Raises UserError for patients of the validation or test part that a compared encoder was trained on."""
    if isinstance(source, StoredFeatures):
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
    for metric, of_metric in ((AUROC, [i for i in kept if not number[i]]), (R2, [i for i in kept if number[i]])):
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
