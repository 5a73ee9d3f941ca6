"""``python -m dira_scale.export run=RUN``: a run's weights as files for other libraries, with a model card.

Reads only the checkpoint: needs no GPU and no process group. torch is imported inside the function: a typing
mistake is named within a second.
"""

from pathlib import Path

from omegaconf import DictConfig

from dira_scale.config.compose import run_verb
from dira_scale.runs.complete import config_file


def export(cfg: DictConfig) -> None:
    """Write the files of ``formats`` and the card ``README.md`` to ``out``; remove other formats' files there."""
    config_file(Path(cfg.run))
    from dira_scale.methods import method_class
    from dira_scale.models.card import Card, Source
    from dira_scale.models.formats import FORMATS, Trained, default_formats, replace_export, trains_decoder
    from dira_scale.models.weights import trained_encoder, trained_network
    from dira_scale.runs.reader import LATEST, RunReader

    run, out = Path(cfg.run), Path(cfg.out or Path(cfg.run) / "export")
    reader = RunReader(run)
    (tensors, state, stage), config, stages = reader.load(cfg.stage), reader.config, reader.stages
    done = list(stages)[: list(stages).index(stage) + 1]
    decoder = trains_decoder(stages[name] for name in done)
    encoder, method = trained_encoder(config, tensors), method_class(config["method"])
    network = trained_network(config, encoder, tensors) if decoder else None
    trained = Trained.of(config, encoder, network, method.bounded)
    chosen = default_formats(trained) if cfg.formats is None else cfg.formats
    exports = {name: FORMATS[name](trained) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    files = {name: content for exported in exports.values() for name, content in exported.files.items()}
    loss = None if cfg.stage == LATEST or not reader.has_best else state["best"][stage]
    sources, split = [], config["data"]["split"]
    for data in reader.datasets():
        if info := data.info:
            about = info.modality, info.licence, info.counts[split], info.split_remark
            sources.append(Source(info.name, data.hash, *about))
        else:  # the card has the folder's name and a short reason; the terminal the full error
            print(f"not in the card: {data.error}")
            sources.append(Source(data.name, data.hash, unread=data.problem))
    card = Card(run.resolve().name, config, sources, stage, state["step"], loss, decoder, exports, method.remark)
    removed = replace_export(out, files, card.text())
    if cfg.stage is None and (remark := reader.remark_on(stage, state["step"])):
        print(remark)
    if removed:
        print(f"removed, from an earlier export: {', '.join(removed)}; one command with all formats keeps them all")
    print(f"stage {stage}, step {state['step']}: {', '.join(files)} and README.md in {out}")


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("export", export, argv)


if __name__ == "__main__":
    raise SystemExit(main())
