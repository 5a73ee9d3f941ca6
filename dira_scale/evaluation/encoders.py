"""The encoders that a probe compares: those of runs, one from a file of weights, and random ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from dira_scale.errors import UserError
from dira_scale.models.encoder import DEPTH, Encoder, build_encoder
from dira_scale.models.layouts import StartWeights
from dira_scale.models.weights import trained_encoder
from dira_scale.runs.identity import identity
from dira_scale.runs.reader import LATEST, RunReader, start_tensors

LAST = "last"  # the value of ``layer`` for the coarsest level


@dataclass
class Group:
    """Encoders that are one row of the table: equal but for their seeds. ``members`` says which each of them is."""

    name: str
    kind: str  # run | init | random
    encoders: list[Encoder] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)


def read_runs(run: str | Sequence[str] | None) -> list[RunReader]:
    """The runs that ``run`` names. Raises UserError where they differ in what a common table needs, or are the same."""
    runs = [RunReader(Path(folder)) for folder in ([run] if isinstance(run, str) else run or [])]
    folders = [one.folder.resolve() for one in runs]
    for one in runs:
        if folders.count(one.folder.resolve()) > 1:
            raise UserError(f"run: {one.folder} is named twice")
    for key, of in (("model.encoder", lambda c: c["model"]["encoder"]), ("data.size", lambda c: c["data"]["size"])):
        values = {of(one.config): one.folder for one in runs}
        if len(values) > 1:
            told = " and ".join(f"{value} in {folder}" for value, folder in values.items())
            raise UserError(f"run: {key} is {told}; one table has one random baseline: probe them in two calls")
    return runs


def trained_groups(runs: Sequence[RunReader], stage: str | None, size: int) -> list[Group]:
    """A group for each configuration but for its seed, in the order of the runs.

    Raises UserError for an encoder of a fixed image size that is asked to see images of another ``size``.
    """
    alike: dict[str, list[RunReader]] = {}
    for run in runs:
        without = {key: value for key, value in identity(run.config).items() if key != "seed"}
        alike.setdefault(repr(sorted(without.items(), key=lambda item: item[0])), []).append(run)
    groups = []
    for same in alike.values():
        group = Group(_common_name([run.folder.resolve().name for run in same]), "run")
        for run in same:
            tensors, state, at = run.load(stage)
            group.encoders.append(encoder := trained_encoder(run.config, tensors))
            if size != (seen := run.config["data"]["size"]) and timm.get_pretrained_cfg(encoder.name).fixed_input_size:
                raise UserError(f"data.size={size}: {encoder.name} of {run.folder} sees images of {seen} pixels only")
            which = {"run": str(run.folder), "seed": run.config["seed"], "stage": at, "step": state["step"]}
            group.members.append(which | {"checkpoint": "newest" if stage == LATEST else "lowest validation loss"})
        groups.append(group)
    _rename(groups, [Path(group.members[0]["run"]).resolve().name for group in groups])
    return groups


def tell_apart(groups: Sequence[Group]) -> None:
    """Give groups of the same name the paths that they were read from: a name is one row of the table."""
    _rename(groups, [str(group.members[0].get("run") or group.members[0].get("init", group.name)) for group in groups])


def weights_group(path: str, name: str, size: int) -> Group:
    """The encoder ``name`` with the weights of a file of any layout that pretraining takes."""
    encoder = build_encoder(name, size=size)
    start = StartWeights(Path(path), encoder, start_tensors(Path(path)))
    return Group(Path(path).name, "init", [encoder], [{"init": path, "loaded": start.loaded}])


def random_group(name: str, size: int, count: int, seed: int) -> Group:
    """``count`` encoders as they are initialised, seeded ``seed``, ``seed + 1`` …

    Their BatchNorms stay as they are, at mean 0 and variance 1: with statistics of the data the deeper levels know less
    (ResNet-18 on phantoms: 66 instead of 72 % mean AUC at level 5), and the baseline is to be the strong one.
    """
    group = Group("random", "random")
    with torch.random.fork_rng(devices=[]):
        for member in range(seed, seed + count):
            torch.manual_seed(member)
            group.encoders.append(build_encoder(name, size=size))
            group.members.append({"seed": member})
    return group


def levels(layer: str | int | Sequence[str | int], encoder: Encoder) -> dict[str, int]:
    """Levels of the pyramid by the name they have in the table. Raises UserError for one that there is not."""
    there = [level for level in range(1, DEPTH + 1) if encoder.channels[level] > 0]
    if not layer:
        raise UserError("layer=[]: name a level, or several")
    found = {}
    for asked in [layer] if isinstance(layer, str | int) else layer:
        level = there[-1] if asked == LAST else asked
        if level not in there:
            raise UserError(f"layer={asked}: {encoder.name} has {', '.join(map(str, there))} and {LAST}")
        assert isinstance(level, int)
        found[str(level)] = level
    return found


def _rename(groups: Sequence[Group], longer: Sequence[str]) -> None:
    names = [group.name for group in groups]
    for group, name in zip(groups, longer, strict=True):
        if names.count(group.name) > 1:
            group.name = name


def _common_name(names: list[str]) -> str:
    """A run's folder name; of several, without what tells seeds apart: moco-0 and moco-1 are ``moco``."""
    return names[0] if len(names) == 1 else re.sub(r"[-_.]*(seed|s)?[-_.=]*\d*$", "", names[0]) or names[0]
