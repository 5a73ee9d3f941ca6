"""What `export` does: weights of a run as files of other libraries, and their card."""

import json
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.errors import print_line
from dira_scale.evaluation.encoders import fake_encoder
from dira_scale.evaluation.trained import FILE, about_run
from dira_scale.export import formats
from dira_scale.export.card import Card
from dira_scale.export.exported import TrainedNetwork
from dira_scale.export.formats import EXPORT, FORMATS, default_formats, replace_export
from dira_scale.export.measured import release_of
from dira_scale.models.weights import trained_encoder, trained_network
from dira_scale.runs.description import Description
from dira_scale.runs.reader import LATEST, RunReader, check_stage
from dira_scale.storage.owned import check_own
from dira_scale.tasks.config import FINETUNE


def make(cfg: DictConfig) -> None:
    """Write the files of ``formats`` and the card; remove other formats' files."""
    run, out = Path(cfg.run), Path(cfg.out or Path(cfg.run) / "export")
    check_own(out, EXPORT, "out", None if cfg.out else run)
    reader = RunReader(run)
    (tensors, state, stage), described = reader.load(cfg.stage), reader.description
    encoder, decoder = trained_encoder(described, tensors), described.trains_decoder(stage)
    head = described.trains_head(stage)
    datasets = [*reader.datasets()]
    release = release_of(cfg, reader, datasets)
    trained = TrainedNetwork(described, encoder, trained_network(described, encoder, tensors) if head else None)
    chosen = default_formats(trained) if cfg.formats is None else cfg.formats
    exports = {name: FORMATS[name](trained) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    files = {name: content for exported in exports.values() for name, content in exported.files.items()}
    if described.command == FINETUNE and "plain" in exports:  # all that `predict` needs to know
        files[FILE] = json.dumps(about_run(reader, stage, state["step"]), indent=1).encode()
    loss = state.get("best", {}).get(stage) if reader.takes_best(cfg.stage) else None
    for data in datasets:
        if data.known.licence is None:  # the card has the folder's name and a short reason; the terminal the full error
            print_line(f"not in the card: {data.error}")
    card = Card(run.resolve().name, described, datasets, stage, state["step"], loss, decoder, exports, release)
    if removed := replace_export(out, files, card.text()):
        print_line(f"removed, of an earlier export: {', '.join(removed)}; one command with all formats keeps all")
    print_line(f"stage {stage}, step {state['step']}: {', '.join(files)} and README.md in {out}")


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage and formats for runs that have not trained yet. Raises UserError as :func:`make` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
        decoder = run.trains_decoder(None if cfg.stage == LATEST else cfg.stage)
        encoder = fake_encoder(run.network.architecture, run.input.sides)
        for format in [cfg.formats] if isinstance(cfg.formats, str) else cfg.formats or []:
            formats.check(format, encoder, decoder, run.network.head == "pooled")
