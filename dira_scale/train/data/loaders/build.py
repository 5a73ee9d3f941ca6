"""``data.loader``: which loader reads the shards. Only this module knows the implementations."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.registry import imported
from dira_scale.base.errors import nearest
from dira_scale.base.machine.install import dali_extra, install_command
from dira_scale.base.storage.store import is_local
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import DECODED_ON_GPU
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.loaders import Loader, LoaderSpec
from dira_scale.train.data.samples import stored_codecs

AUTO, STREAM = "auto", "stream"
NO_CACHE = CacheSettings()
# Imported when chosen: some need packages that are not always installed.
LOADERS = {
    "cpu": "dira_scale.train.data.loaders.cpu.CpuLoader",
    "dali": "dira_scale.train.data.loaders.dali.DaliLoader",
    "ffcv": "dira_scale.train.data.loaders.ffcv.FfcvLoader",
    "stream": "dira_scale.train.data.loaders.stream.StreamLoader",
}
HELPER = "dira_scale.train.data.loaders.helper.HelperLoader"
OWN = "{_target_: my_package.MyLoader}"  # how to name a loader of your own


@dataclass(frozen=True)
class LoaderChoice:
    """A loader that is chosen but not yet built; ``str()`` gives its name and the reason in one line."""

    name: str
    why: str
    target: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"loader: {self.name} ({self.why})"

    def build(self, spec: LoaderSpec, processes: int = 0) -> Loader:
        """Return the loader built for ``spec``, in so many processes of its own.

        Raises ValueError if it does not take it and its settings, is not a loader, or cannot read these datasets.
        """
        if processes:
            return _imported(HELPER)(spec, self, processes)
        factory = _imported(self.target)
        try:
            inspect.signature(factory).bind(spec, **self.settings)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name} does not take a LoaderSpec and its settings ({error}); see "
                "dira_scale.train.data.loaders.Loader"
            ) from error
        loader = factory(spec, **self.settings)
        if not isinstance(loader, Loader):
            raise ValueError(
                f"{self.name} is not a dira_scale.train.data.loaders.Loader; that class lists what it needs"
            )
        return loader

    def processes(self, helper: bool | None, device: torch.device | str, workers: int) -> int:
        """Return the number of processes of its own in which so many ``workers`` load; 0: in the training process.

        ``helper``: whether it does; None: beside a GPU, unless the loader decodes there or is your own. Your own has
        one process: it need not know ``LoaderSpec.share``. Raises ArgumentError for one that needs the GPU, and where
        the system cannot share memory so.
        """
        decodes_here = self.name in LOADERS and self.name != "dali"
        if not (decodes_here and torch.device(device).type == "cuda" if helper is None else helper):
            return 0
        if self.name == "dali":
            raise ArgumentError("helper", True, "false: dali decodes on the GPU, which is the training process's")
        if not hasattr(os, "memfd_create"):
            raise ArgumentError("helper", helper, "false: processes of its own need Linux")
        return workers if decodes_here else 1


def choose(
    loader: str | dict[str, Any],
    datasets: Sequence[ShardedDataset] = (),
    device: torch.device | str = "cpu",
    cache: CacheSettings = NO_CACHE,
) -> LoaderChoice:
    """Return the loader that ``loader`` names: ``auto``, one of ``LOADERS``, or ``_target_`` with its settings.

    ``auto`` depends on ``datasets``, the training ``device`` and ``cache``, and on what is installed.
    Raises ArgumentError, with the nearest name, if there is no such loader, or it has no cache and one was asked for.
    """
    if isinstance(loader, dict):
        if cache.asked_for:
            expected = "nothing: settings of your own loader stand beside its _target_"
            raise ArgumentError("cache", cache.asked_for, expected)
        target = loader.get("_target_")
        if target is None:
            raise ArgumentError("loader", loader, OWN)
        imported("data.loader._target_", target)
        settings = {key: value for key, value in loader.items() if key != "_target_"}
        return LoaderChoice(target, "data.loader._target_", str(target), settings)
    if loader == AUTO:
        name, why = _best(datasets, torch.device(device), cache)
        why = f"data.loader={AUTO}: {why}"
    elif str(loader) in LOADERS:
        name, why = loader, f"data.loader={loader}"
    else:
        names = [AUTO, *LOADERS]
        raise ArgumentError("loader", loader, f"{', '.join(names)} or {OWN}{nearest(str(loader), names)}")
    if name != STREAM and cache.asked_for:
        none = f"{STREAM}, or no settings of a cache ({', '.join(cache.asked_for)})"
        raise ArgumentError("loader", loader, f"{none}, which {name} does not use")
    settings = {"cache": cache} if name == STREAM else {}
    _imported(LOADERS[name])  # says which package is missing, before anything else
    return LoaderChoice(name, why, LOADERS[name], settings)


def _best(datasets: Sequence[ShardedDataset], device: torch.device, cache: CacheSettings) -> tuple[str, str]:
    """Return the name of the fastest loader for these shards here, and why it is."""
    if distant := [dataset.root for dataset in datasets if not is_local(dataset.root)]:
        return STREAM, f"{distant[0]} is not on this machine; shards are kept in {cache.location}"
    if cache.asked_for:
        return STREAM, f"a cache with {', '.join(cache.asked_for)}"
    if device.type != "cuda":
        return "cpu", "no GPU"
    if any(dataset.info.dims == 3 for dataset in datasets):
        return "cpu", "volumes"
    try:
        dali = find_spec("nvidia.dali")
    except ModuleNotFoundError:  # not even the package around it
        dali = None
    if dali is None:
        return "cpu", f"nvidia-dali is not installed: {install_command(dali_extra())}"
    if slow := ", ".join(sorted(stored_codecs(datasets) - set(DECODED_ON_GPU))):
        return "cpu", f"{slow} has no GPU decoder: shard again with recipe.codec=gpu"
    return "dali", f"decodes {' and '.join(sorted(stored_codecs(datasets)))} on the GPU"


def _imported(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)
