"""The rows of a probe's table: features of encoders, computed now, or read from folders that `embed` has written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dira_scale.base.errors import UserError
from dira_scale.base.machine.device import compute_device
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.config import PIXELS, SIZE
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.judge.evaluation.encoders import (
    fake_encoder,
    levels,
    make_names_unique,
    random_group,
    read_runs,
    trained_groups,
    weights_group,
)
from dira_scale.judge.evaluation.features import Images, features
from dira_scale.judge.pages.probe_figures import Features
from dira_scale.probe.pretext import PRETEXTS, Changed, Pretext
from dira_scale.probe.probing import PARTS, Parts
from dira_scale.train.models.architecture import Architecture, TimmUNet, architecture
from dira_scale.train.runs.choice import check_stage
from dira_scale.train.runs.description import Description

MemberFeatures = list[tuple[Features, list[Parts]]]  # rows of the table, with the features of their members
Labelled = ShardedDataset | Embeddings


class ComputedFeatures:
    """The features of the encoders of ``run`` and ``init``, of random ones, and of raw pixels.

    Attributes:
        encoder: what notes call them. ``size``: of the images. ``pretext``: how they are changed, if they are.
    """

    def __init__(self, cfg: DictConfig, config: dict[str, Any]) -> None:
        """Raises UserError for runs that cannot share a table, or a dataset of other dimensions."""
        self.cfg, self.config, self.runs = cfg, config, read_runs(config["run"])
        self.model, self.size = compared_network(cfg, [run.description for run in self.runs])
        self.encoder = self.model.name
        self.dataset = ShardedDataset.open(cfg.data.shards)
        self.dataset.require(self.model.dimensions, f"probing {self.encoder}")
        for run in (reader.description for reader in self.runs):
            splits, names = [*self.dataset.splits], run.data.channels
            self.dataset.require_channels(splits, run.network.channels, names, self.encoder)
        sides = self.model.dimensions * (self.size,) if isinstance(self.size, int) else self.size
        self.pretext: Pretext | None = PRETEXTS[cfg.pretext](sides) if cfg.pretext else None

    def features(self, rows: Parts) -> MemberFeatures:
        """Raises UserError for an encoder that does not match its weights, or a level that it does not have."""
        cfg, model, size = self.cfg, self.model, self.size
        window = self.runs[0].description.input.window if self.runs else None
        arguments = size, cfg.data.workers, window, compute_device()
        kind = partial(Changed, self.pretext) if self.pretext else Images
        images = {part: kind(self.dataset, rows[part], *arguments) for part in PARTS}
        groups = trained_groups(self.runs, cfg.stage, size)
        channels = self.runs[0].description.network.channels if self.runs else None
        groups += [weights_group(cfg.init, model, size, channels)] if cfg.init else []
        groups.append(random_group(model, size, cfg.random_encoders, cfg.seed, channels))
        make_names_unique(groups)
        layers = levels(self.config["layer"], groups[0].encoders[0])
        encoders = [encoder for group in groups for encoder in group.encoders]
        extracted = {part: features(encoders, images[part], list(layers.values()), cfg.batch) for part in PARTS}
        if self.pretext:
            examples = self.pretext.examples
            extracted = {
                part: (examples(pixels), [[*map(examples, levels)] for levels in encoded])
                for part, (pixels, encoded) in extracted.items()
            }
        table, number = MemberFeatures(), 0
        for group in groups:
            numbers = range(number, number := number + len(group.encoders))
            for level, name in enumerate(layers):
                members = [{part: extracted[part][1][n][level] for part in PARTS} for n in numbers]
                width = members[0]["train"].shape[1]
                table.append((Features(group.name, group.kind, name, width, group.members), members))
        pixels, shape = {part: extracted[part][0] for part in PARTS}, "x".join([str(PIXELS)] * model.dimensions)
        width = pixels["train"].shape[1]
        return [*table, (Features(f"pixels {shape}", "pixels", "", width, [{"side": PIXELS}]), [pixels])]


class StoredFeatures:
    """The features in the folders ``embeddings``, of one dataset, without a look at its images. Attributes as above."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Raises UserError for keys that encoders need, or folders of different datasets."""
        for key in ("run", "init", "stage", "data.size", "model.encoder"):
            node, _, name = key.rpartition(".")
            if (value := (config[node] if node else config)[name]) is not None:
                raise UserError(f"{key}={value} beside embeddings=…: these have features already; leave {key} out")
        names = config["embeddings"]
        self.folders = [Embeddings.open(Path(name)) for name in ([names] if isinstance(names, str) else names)]
        if not self.folders:
            raise UserError("embeddings=[]: name a folder, or several")
        self.dataset, first = self.folders[0], self.folders[0].about
        for other in self.folders[1:]:
            if (other.hash, other.about.split) != (first.dataset.hash, first.split):
                raise UserError(
                    f"embeddings: {self.dataset.root} and {other.root} are of different images "
                    f"({first.dataset.name}, {first.split}; {other.info.name}, {other.about.split}): probe each alone"
                )
        self.maps = bool(first.sides)
        if any(bool(other.about.sides) != self.maps for other in self.folders):
            raise UserError("embeddings: some have maps and some vectors: probe them in two calls")
        if self.maps != (config["data"]["shards"] is not None):
            shards = config["data"]["shards"]
            raise UserError(
                "embeddings=…: maps are probed against masks: name their dataset, data.shards=OUT" if self.maps else
                f"data.shards={shards} beside embeddings=…: these have features already; leave data.shards out"
            )  # fmt: skip
        if self.maps and (other_key := next((k for k in ("labels", "probes") if config[k] is not None), None)):
            raise UserError(f"{other_key}: is of vectors, and embeddings=… are maps: leave it out")
        self.size: Any = first.size[0] if len({*first.size}) == 1 else first.size
        self.encoder = " and ".join(dict.fromkeys(folder.about.weights.encoder for folder in self.folders))

    @property
    def described(self) -> list[Features]:
        """The row of each folder."""
        names = [folder.about.name for folder in self.folders]
        result = list[Features]()
        for folder, name in zip(self.folders, names, strict=True):
            about = folder.about
            member = {"embeddings": str(folder.root), "weights": about.weights.hash}
            shown = name if names.count(name) == 1 else str(folder.root)
            result.append(Features(shown, about.weights.kind, str(about.level), about.width, [member]))
        return result

    def features(self, rows: Parts) -> MemberFeatures:
        of_folders = ({part: folder.values[rows[part]] for part in PARTS} for folder in self.folders)
        return [(row, [parts]) for row, parts in zip(self.described, of_folders, strict=True)]


def compared_network(cfg: DictConfig, runs: Sequence[Description]) -> tuple[Architecture, int | tuple[int, ...]]:
    """The architecture whose encoders are compared, and their view size. ``runs``: of one encoder and size.

    Raises UserError if another encoder is asked for, or none, or the size is too small, or one is given for volumes.
    """
    name, trained = cfg.model.encoder, runs[0].network if runs else None
    if trained is None and name is None:
        raise UserError("model.encoder must be given without a run: model.encoder=resnet18")
    if trained and name not in (None, trained.name):
        raise UserError(
            f"model.encoder={name}: the run has {trained.name}; leave it out, or probe {name} without a run"
        )
    model = architecture(trained.architecture) if trained else TimmUNet(encoder=name, decoder_channels=[1])
    if type(model) is TimmUNet:  # random ones are initialised as torchvision's, whatever the run was
        model = replace(model, zero_init_residual=False)
    if model.dimensions == 3:
        if cfg.data.size:
            raise UserError(f"data.size={cfg.data.size}: volumes are resized to the run's size; leave it out")
        return model, tuple(runs[0].input.size)
    size = cfg.data.size or (runs[0].input.size[0] if runs else SIZE)
    if size < 2 * PIXELS:
        raise UserError(f"data.size={size}: must be at least {2 * PIXELS}")
    return model, size


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage, encoder, size and levels of runs that have not trained yet, by their names.

    Raises UserError as `probe` would.
    """
    if cfg.embeddings is not None:
        return  # are read when they are there
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    model, size = compared_network(cfg, [*runs.values()])
    levels(cfg.layer, fake_encoder(vars(model), size))
