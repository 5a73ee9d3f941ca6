"""The encoders that a probe compares: from runs, from a file of weights, and random ones."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.features import TOKENS, TOKENS_4, Layer
from dira_scale.train.models.architecture import (
    INPUT,
    Architecture,
    architecture,
    exported_architecture,
    exported_metadata,
)
from dira_scale.train.models.hub import pinned
from dira_scale.train.models.memory_limit import as_large_as
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.normalise import normalise_input
from dira_scale.train.models.start import start_weights
from dira_scale.train.models.tensor_files import read_tensors
from dira_scale.train.models.weights import trained_encoder
from dira_scale.train.runs.description import FILE, Description, InputDescription
from dira_scale.train.runs.files import DAMAGED, parse_json
from dira_scale.train.runs.identity import seedless
from dira_scale.train.runs.reader import RunReader
from dira_scale.train.runs.shape import shaped

LAST = "last"  # the value of ``layer`` for the coarsest level


@dataclass
class Group:
    """Encoders in one row of the table, which differ only in their seeds. ``members`` describes each of them."""

    name: str
    kind: str  # run | init | random
    encoders: list[Encoder] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)


def stored_encoder(path: Path, stage: str | None = None) -> Encoder:
    """The encoder of the run in folder ``path``, of its checkpoint ``stage``, or of what was exported of one, in
    evaluation mode: images of [0, 1], [b, 1 or C, *size], to its pyramid. Raises UserError for another folder."""
    if (path / FILE).is_file():
        run = RunReader(path)
        encoder, input = trained_encoder(run.description, run.load(stage)[0]), run.description.input
    else:
        given, again = exported_metadata(path).get(INPUT), "export the run again, with plain weights or timm's"
        if given is None:
            raise UserError(f"{path}: neither a run's folder nor an export that says which images it takes; {again}")
        try:
            input = shaped(InputDescription, parse_json(given), again, f"{path}: {INPUT}")
        except DAMAGED as error:
            raise UserError(f"{path} is damaged (its metadata {INPUT}: {error}): {again}") from error
        file = min(path.glob("*.safetensors"), default=path)
        with at("run"):
            tensors = read_tensors(file)
        with as_large_as(tensors.values(), str(file)), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a plain transformer's finer levels, which timm's files do not have
            encoder = _random(architecture(exported_architecture(path)), input.sides, input.channels)
        start_weights(str(path), encoder, key="run")
    normalise_input(encoder, input)
    return encoder.eval()


def read_runs(run: str | Sequence[str] | None) -> list[RunReader]:
    """The runs named by ``run``. Raises UserError if they differ in encoder or view size, or are the same."""
    runs = [RunReader(Path(folder)) for folder in ([run] if isinstance(run, str) else run or [])]
    folders = [reader.folder.resolve() for reader in runs]
    for reader in runs:
        if folders.count(reader.folder.resolve()) > 1:
            raise UserError(f"run: {reader.folder} is named twice")
    differing: tuple[tuple[str, Callable[[Description], Any]], ...] = (
        ("model._target_", lambda run: run.network.architecture.get("_target_")),
        ("model.encoder", lambda run: run.network.name),
        ("channels", lambda run: run.network.channels),
        ("data.size", lambda run: run.input.sides),
        ("data.range", lambda run: run.input.window),
    )
    for key, of in differing:
        values = {of(reader.description): reader.folder for reader in runs}
        if len(values) > 1:
            listed = " and ".join(f"{value} in {folder}" for value, folder in values.items())
            raise UserError(f"run: {key} is {listed}; a table has one random baseline: probe them in two calls")
    return runs


def trained_groups(runs: Sequence[RunReader], stage: str | None, size: int | tuple[int, ...]) -> list[Group]:
    """A group per configuration, ignoring seeds, in the order of the runs.

    Raises UserError for an encoder whose fixed image size is not ``size``.
    """
    by_configuration: dict[str, list[RunReader]] = {}
    for run in runs:
        by_configuration.setdefault(seedless(run.config, run.description.execution), []).append(run)
    groups = []
    for members in by_configuration.values():
        group = Group(common_name([run.folder for run in members]), "run")
        for run in members:
            tensors, state, at = run.load(stage)
            group.encoders.append(encoder := trained_encoder(run.description, tensors))
            normalise_input(encoder, run.description.input)
            if size != (side := run.description.input.sides) and encoder.fixed_size:
                raise UserError(f"data.size={size}: {encoder.name} of {run.folder} takes images of {side} pixels only")
            which = {"run": str(run.folder), "seed": run.config["seed"], "stage": at, "step": state["step"]}
            group.members.append(which | {"checkpoint": run.chosen(stage).which})
        groups.append(group)
    _rename(groups, [shown_name(Path(group.members[0]["run"])) for group in groups])
    return groups


def make_names_unique(groups: Sequence[Group]) -> None:
    """Rename groups of the same name to the paths that they were read from, as a name identifies a row."""
    _rename(groups, [str(group.members[0].get("run") or group.members[0].get("init", group.name)) for group in groups])


def weights_group(path: str, model: Architecture, size: int | tuple[int, ...], channels: int | None = None) -> Group:
    """The encoder of ``model`` with the weights of a file in any layout that pretraining accepts."""
    encoder = _random(model, size, channels)
    start = start_weights(path, encoder)
    if start is None:
        raise UserError(f"init={path}: expected a file of weights; encoders of random weights are rows of the table "
                        "already, as many as random_encoders says")  # fmt: skip
    member = {"init": pinned(path), "loaded": [*start.loaded]}
    return Group(Path(path).name, "init", [encoder], [member])


def _random(model: Architecture, size: int | tuple[int, ...], channels: int | None) -> Encoder:
    """``channels``: of the first layer; None: the architecture's own."""
    with at("model", {"size": "data.size"}):
        return model.build_encoder(size) if channels in (None, model.channels) else model.build_encoder(size, channels)


def random_group(
    model: Architecture, size: int | tuple[int, ...], count: int, seed: int, channels: int | None = None
) -> Group:
    """``count`` encoders of ``model`` at their initialisation, seeded ``seed``, ``seed + 1`` …

    Their BatchNorms keep mean 0 and variance 1: with statistics of the data, the deeper levels get worse (ResNet-18 on
    phantoms: 66 instead of 72 % mean AUC at level 5), and the baseline should be the strong one.
    """
    group = Group("random", "random")
    with torch.random.fork_rng(devices=[]):
        for member in range(seed, seed + count):
            torch.manual_seed(member)
            group.encoders.append(_random(model, size, channels))
            group.members.append({"seed": member})
    return group


def fake_encoder(model: Mapping[str, Any], size: int | tuple[int, ...]) -> Encoder:
    """Return the encoder of the node ``model`` for images of ``size``, whose tensors have no memory.

    For checks of a run that has not trained yet.
    """
    return _fake_encoder(json.dumps(dict(model)), size)


@lru_cache
def _fake_encoder(model: str, size: int | tuple[int, ...]) -> Encoder:
    with torch.device("meta"):
        return _random(architecture(json.loads(model)), size, None)


def levels(layer: Layer | Sequence[Layer], encoder: Encoder) -> dict[str, Layer]:
    """Levels of the pyramid, or tokens, by their name in the table. Raises UserError for one that is not there."""
    available: list[Layer] = [level for level in range(1, len(encoder.channels)) if encoder.channels[level] > 0]
    last = available[-1]
    if encoder.has_class_token:
        available += TOKENS + (TOKENS_4 if encoder.class_blocks >= 4 else ())
    if not layer:
        raise UserError("layer=[]: name a level, or several")
    by_name = {}
    for name in [layer] if isinstance(layer, str | int) else layer:
        level = last if name == LAST else name
        if level not in available:
            raise UserError(f"layer={name}: {encoder.name} has {', '.join(map(str, available))} and {LAST}")
        by_name[str(level)] = level
    return by_name


def _rename(groups: Sequence[Group], longer: Sequence[str]) -> None:
    names = [group.name for group in groups]
    for group, name in zip(groups, longer, strict=True):
        if names.count(group.name) > 1:
            group.name = name


def common_name(folders: Sequence[Path]) -> str:
    """Return the name of a run; for several runs, without the seed: moco-0 and moco-1 are ``moco``."""
    first = shown_name(folders[0])
    return first if len(folders) == 1 else re.sub(r"[-_./]*(seed|s)?[-_.=]*\d*$", "", first) or first


def shown_name(folder: Path) -> str:
    """A run's folder name; of a run of a sweep, all of which write to a folder ``output``, its phase and values."""
    folder = folder.resolve()
    if folder.name != "output" or not (folder.parent / "run.json").is_file():
        return folder.name
    phase, name = folder.parts[-3:-1]
    values = name.rpartition("-")[0]  # without the hash
    return f"{phase}/{values}" if values else phase
