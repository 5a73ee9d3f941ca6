"""No patient that figures are computed on was trained on: in the run itself, or in one that its weights or teachers are
from.

Patients are compared by their keys in the manifests, and only those whose images were trained on: the rows that
``data.fraction``, ``data.exclude`` and ``data.negatives`` leave.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from dira_scale.base.config.trust import beyond, may_ask
from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import as_os_error, locate
from dira_scale.dataset.manifest import DatasetError, ShardedDataset
from dira_scale.train.data.selection import Selection
from dira_scale.train.inputs import Inputs
from dira_scale.train.models.hub import is_hub
from dira_scale.train.models.precheck import starts
from dira_scale.train.models.start import RANDOM
from dira_scale.train.runs.description import Dataset
from dira_scale.train.runs.reader import RunReader
from dira_scale.train.sampling import selected

NO_LEAK, UNKNOWN = "no leak", "not checkable"
FILE = "a file does not say on which patients its weights were trained (of an export, name the run's folder instead)"


@dataclass(frozen=True)
class Part:
    """Patients of a split, by their keys."""

    dataset: ShardedDataset
    split: str
    patients: frozenset[str]

    @classmethod
    def of(cls, dataset: ShardedDataset, split: str, samples: np.ndarray | None = None) -> "Part":
        """``samples``: those of the split that count; None: all."""
        rows = dataset.rows(split)
        return cls(dataset, split, frozenset(dataset.column("patient")[rows if samples is None else rows[samples]]))

    def incomparable(self, other: "Part") -> str | None:
        """Return why a patient of both may have different keys; None if keys can be compared."""
        same = self.dataset.hash == other.dataset.hash
        return None if same else self.dataset.info.incomparable(other.dataset.info)

    def __str__(self) -> str:
        return f"split {self.split} of {self.dataset.info.name}"


@dataclass(frozen=True)
class WeightsOrigin:
    """The origin of weights.

    Attributes:
        name: in messages, as the user has named it.
        learned, validated: the splits whose gradients trained, and those by which checkpoints were chosen.
        exclude: the value of ``data.exclude`` with which it was trained.
        unknown: why it, or a part of it, cannot be checked.
        remedy: what to do with the value of ``data.exclude`` that leaves the patients out.
    """

    name: str
    learned: Sequence[Part] = ()
    validated: Sequence[Part] = ()
    exclude: Any = None
    unknown: Sequence[str] = ()
    remedy: str = "train it again with"


@dataclass(frozen=True)
class Leak:
    """The recorded leak check. ``verdict``: ``no leak`` or ``not checkable``; ``lines``: for the log, one a finding."""

    verdict: str
    lines: list[str]


def check_leak(judged: Sequence[Part], test: str | None, sources: Sequence[WeightsOrigin]) -> Leak:
    """Compare the patients of the splits ``judged``, of which ``test`` is the one that is reported on.

    Raises UserError for patients that were trained on: how many, where, and how to leave them out.
    """
    if not judged or not sources:
        return Leak(NO_LEAK, [])
    unknown, remarks = dict[str, list[str]](), list[str]()  # the names of sources by what is unknown of them
    for source in sources:
        if shared := _shared(source.learned, judged):
            raise UserError(_refusal(source, shared))
        reasons = {
            f"{part} and {each.dataset.info.name}: {why}"
            for part in source.learned for each in judged if (why := part.incomparable(each))
        }  # fmt: skip
        for reason in [*source.unknown, *sorted(reasons)]:
            unknown.setdefault(reason, []).append(source.name)
        for part, each, count in _shared(source.validated, [each for each in judged if each.split == test]):
            remarks.append(
                f"{source.name} chose its checkpoint on {count} of the {len(each.patients)} patients of {each}, which "
                f"are in {part}; its gradients have not seen them"
            )
    about = f"no patient of {' or '.join(map(str, judged))} was trained on by {' or '.join(s.name for s in sources)}"
    more = {why: f" and {len(names) - 1} more" if len(names) > 1 else "" for why, names in unknown.items()}
    lines = [f"{UNKNOWN}: {names[0]}{more[why]}: {why}" for why, names in unknown.items()] or [f"{NO_LEAK}: {about}"]
    return Leak(UNKNOWN if unknown else NO_LEAK, [f"patients: {line}" for line in [*lines, *remarks]])


def own_source(data: Inputs) -> WeightsOrigin:
    """Return the splits that this run will have learned from."""
    validated = [Part.of(each, data.data.val_split) for each in data.datasets] if data.data.val_split else []
    learned = _parts(data.datasets, data.data.split, data.order.selection)
    return WeightsOrigin("this run", learned, validated, data.data.exclude, remedy="add")


def sources_of(start: str | None, key: str, known: Sequence[ShardedDataset]) -> Iterator[WeightsOrigin]:
    """Yield the sources of the weights ``start``: the run of which they are, and those that it was started from or
    taught by, as far as recorded.

    Args:
        key: that has named them.
        known: datasets that are open.
    """
    name, visited = f"{key}={start}", set[Path]()
    while start not in (None, RANDOM):
        folder = Path(str(start))
        if not (folder / "config.yaml").is_file():
            yield WeightsOrigin(name, unknown=[FILE if is_hub(start) or folder.exists() else "it is no longer there"])
            return
        if folder.resolve() in visited:
            return
        visited.add(folder.resolve())
        run = RunReader(folder)
        yield _run_source(name, run, known)
        for taught, teacher in starts(OmegaConf.create(dict(run.config))).items():
            if taught.startswith("method."):
                yield from sources_of(teacher, f"{folder}: {taught}", known)
        start = run.description.network.start
        name = f"{start} (from which {folder} was started)"


def _run_source(name: str, run: RunReader, known: Sequence[ShardedDataset]) -> WeightsOrigin:
    described, settings = run.description.data, SimpleNamespace(**run.config["data"])
    pairs = [(each, _opened(each, known)) for each in described.datasets]
    absent = [each for each, dataset in pairs if not dataset]
    unknown = [
        f"its dataset {each.name or Path(each.path).name} is "
        f"{'no longer where it was' if may_ask(each.path) else beyond(each.path)}" for each in absent
    ]  # fmt: skip
    excluded = [settings.exclude] if isinstance(settings.exclude, str) else settings.exclude or []
    if far := next((str(path) for path in excluded if not may_ask(str(path))), None):
        return WeightsOrigin(name, unknown=[*unknown, f"data.exclude is of {far}, {beyond(far)}"])
    present = [(dataset, each.weight) for each, dataset in pairs if dataset]
    datasets, weights = [dataset for dataset, _ in present], [weight for _, weight in present]
    try:
        selection = selected(settings, datasets, weights) if datasets else None
    except UserError as error:  # such as a file of data.exclude that is gone
        return WeightsOrigin(name, unknown=[*unknown, str(error)])
    if not unknown and (selection.identity if selection else None) != run.config.get("selection"):
        return WeightsOrigin(name, unknown=["data.exclude names other patients today than when it was trained"])
    split = described.held_out_split
    validated = [Part.of(dataset, split) for dataset in datasets] if split else []
    return WeightsOrigin(name, _parts(datasets, described.split, selection), validated, settings.exclude, unknown)


def _opened(dataset: Dataset, known: Sequence[ShardedDataset]) -> ShardedDataset | None:
    """None if that content is no longer there."""
    if match := next((each for each in known if each.hash == dataset.hash), None):
        return match
    if not may_ask(dataset.path):
        return None
    try:
        with as_os_error(locate(dataset.path, "data.shards")):
            present = ShardedDataset.open(dataset.path, check_shards=False)
    except (DatasetError, UserError, OSError):
        return None
    return present if present.hash == dataset.hash else None


def _parts(datasets: Sequence[ShardedDataset], split: str, selection: Selection | None) -> list[Part]:
    """Return the parts of ``split`` that are trained on."""
    parts, first = [], 0
    for dataset in datasets:
        size, samples = len(dataset.rows(split)), None
        if selection:
            samples = selection.samples[(selection.samples >= first) & (selection.samples < first + size)] - first
        parts.append(Part.of(dataset, split, samples))
        first += size
    return parts


def _shared(parts: Sequence[Part], judged: Sequence[Part]) -> list[tuple[Part, Part, int]]:
    """Count the patients that are in both a part and one of ``judged``, where any are and can be recognised."""
    pairs = [(part, each) for part in parts for each in judged if not part.incomparable(each)]
    return [(part, each, count) for part, each in pairs if (count := len(part.patients & each.patients))]


def _refusal(source: WeightsOrigin, shared: Sequence[tuple[Part, Part, int]]) -> str:
    listed = "; ".join(
        f"{count} of the {len(each.patients)} patients of {each} are in {part}, which {source.name} trains on"
        for part, each, count in shared
    )
    if any((each.dataset.hash, each.split) == (part.dataset.hash, part.split) for part, each, _ in shared):
        return f"{listed}: figures would be too good; train and evaluate on different splits"
    exclude = {}
    if isinstance(source.exclude, dict):
        exclude = {path: [given] if isinstance(given, str) else [*given] for path, given in source.exclude.items()}
    for _, each, _ in shared:
        splits = exclude.setdefault(str(each.dataset.root), [])
        splits += [each.split] * (each.split not in splits)
    typed = ", ".join(f"{root}: [{', '.join(splits)}]" for root, splits in exclude.items())
    return f"{listed}: figures would be too good; {source.remedy} data.exclude='{{{typed}}}'"
