"""The `export` command: writes weights of a run as files of other libraries, and their card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.owned import check_own
from dira_scale.base.storage.text import last_parts
from dira_scale.dataset.metrics.statistics.spread import spread_table
from dira_scale.export import formats
from dira_scale.export.bundle import BUNDLE, LICENSE, README
from dira_scale.export.card import Card
from dira_scale.export.config import CardWords
from dira_scale.export.formats import EXPORT, FILES, FORMATS, default_formats, replace_export
from dira_scale.export.network import TrainedNetwork
from dira_scale.export.release import Compute, Release
from dira_scale.judge.evaluation.comparison import compared
from dira_scale.judge.evaluation.encoders import fake_encoder
from dira_scale.judge.evaluation.finetuned_network import FILE as ABOUT
from dira_scale.judge.evaluation.finetuned_network import about_run
from dira_scale.judge.evaluation.results import FILE
from dira_scale.judge.pages.probe_figures import FILE as PROBE
from dira_scale.judge.pages.probe_figures import markdown, overviews, read_probe
from dira_scale.judge.tasks.task import FINETUNE
from dira_scale.train.models.hub import CARD, push
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.choice import BEST, LATEST, check_stage
from dira_scale.train.runs.description import Description, read_description
from dira_scale.train.runs.reader import RunReader, TrainingData


def release_of(cfg: DictConfig, run: RunReader, datasets: Sequence[TrainingData]) -> Release:
    """The release of a ``run``, for ``configs/export.yaml``. Raises UserError: a folder of ``card.evaluation`` does not
    evaluate this run; with ``release``, there are gaps."""
    folders = cfg.card.evaluation or []
    tables = [evaluated(Path(path), run.folder) for path in ([folders] if isinstance(folders, str) else folders)]
    compute = Compute.of(run.rows(), run.environment())
    shards = datasets[0].known.path if datasets else "SHARDS"
    release = Release(CardWords(**cfg.card), compute, tables, str(run.folder), shards)
    if cfg.release and (gaps := release.gaps(run.description, datasets)):
        count = "a gap" if len(gaps) == 1 else f"{len(gaps)} gaps"
        raise UserError(f"release=true: the card has {count}: {'; '.join(gaps)}")
    # The card names no folders of this machine.
    return replace(release, run=run.folder.resolve().name, shards=Path(shards).name)


def evaluated(folder: Path, run: Path) -> str:
    """A table with the spread or the interval of each figure. Raises UserError: ``folder`` has no figures, or none of
    ``run``; a file is damaged."""
    try:
        if (folder / PROBE).is_file():
            content = read_probe(folder)
            runs = content["config"]["run"] or []
            _check(folder, run, [runs] if isinstance(runs, str) else runs)
            tables = overviews(content["figures"])
            texts = [markdown(f"Frozen features, {title}, in percent", cells) for title, cells in tables]
            return "\n".join([*texts, *(f"- {last_parts(note)}" for note in content["notes"])])
        if (folder / FILE).is_file():
            description = read_description(folder)
            start = description.network.start
            _check(folder, run, [str(folder), *([start] if start else [])])
            spreads = [replace(spread, setting=folder.name) for spread in compared([({}, folder)]).spreads]
            names = ", ".join(data.name or Path(data.path).name for data in description.data.datasets)
            title = f"Fine-tuned on {names}; the interval is over test patients (bootstrap)"
            return markdown(title, spread_table(spreads))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"card.evaluation: {folder} cannot be read: {error!r}; evaluate again") from error
    raise UserError(f"card.evaluation: {folder} has no {PROBE} and no {FILE}; name what probe or finetune has written")


def _check(folder: Path, run: Path, evaluated: list[str]) -> None:
    """Raise UserError unless ``run`` is one of the runs that are ``evaluated``."""
    if run.resolve() not in [Path(name).resolve() for name in evaluated]:
        others = ", ".join(evaluated) or "no run"
        raise UserError(f"card.evaluation: {folder} evaluates {others}, not {run}; name an evaluation of this run")


def make(cfg: DictConfig) -> None:
    """Write the files of ``formats`` and the card; remove other formats' files. Then commit them to ``push``."""
    run, out = Path(cfg.run), Path(cfg.out or Path(cfg.run) / "export")
    check_own(out, EXPORT, "out", None if cfg.out else run)
    reader = RunReader(run)
    (tensors, state, stage), described = reader.load(cfg.stage), reader.description
    encoder, decoder = trained_encoder(described, tensors), described.trains_decoder(stage)
    head = described.trains_head(stage)
    datasets = [*reader.datasets()]
    release = release_of(cfg, reader, datasets)
    trained = TrainedNetwork(described, encoder, trained_network(described, encoder, tensors) if head else None)
    given = default_formats(trained) if cfg.formats is None else cfg.formats
    chosen = [given] if isinstance(given, str) else given
    if described.command == FINETUNE and {"plain", BUNDLE} & {*chosen}:
        trained = replace(trained, about=about_run(reader, stage, state["step"]))
    exports = {name: FORMATS[name](trained) for name in chosen}
    files = {name: content for exported in exports.values() for name, content in exported.files.items()}
    if trained.about and "plain" in exports:
        files[ABOUT] = json.dumps(trained.about, indent=1).encode()
    loss = state.get("best", {}).get(stage) if reader.chosen(cfg.stage).stage else None
    for data in datasets:
        if data.known.licence is None:  # the card has the folder's name and a short reason; the terminal the full error
            print_line(f"not in the card: {data.error}")
    card = Card(run.resolve().name, described, datasets, stage, state["step"], loss, decoder, exports, release)
    if BUNDLE in exports:
        files |= {README: card.text().encode(), LICENSE: f"{card.licences}, as docs/README.md says\n".encode()}
    if removed := replace_export(out, files, card.text()):
        print_line(f"removed, of an earlier export: {', '.join(removed)}; one command with all formats keeps all")
    print_line(f"stage {stage}, step {state['step']}: {', '.join(files)} and {CARD} in {out}")
    if cfg.push:
        with at("push", {"private": "private"}):
            print_line(push(cfg.push, out, [*files, CARD], FILES - files.keys(), cfg.private))


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage and formats for runs that have not trained yet. Raises UserError as :func:`make` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
        decoder = run.trains_decoder(None if cfg.stage in (BEST, LATEST) else cfg.stage)
        encoder = fake_encoder(run.network.architecture, run.input.sides)
        for format in [cfg.formats] if isinstance(cfg.formats, str) else cfg.formats or []:
            formats.check(format, encoder, decoder, run.network.head == "pooled")
