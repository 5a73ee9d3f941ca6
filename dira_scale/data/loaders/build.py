"""``data.loader``: which loader reads the shards. The only module that knows the implementations."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dira_scale.data.loaders import Loader
from dira_scale.data.loaders.cpu import CpuLoader
from dira_scale.errors import UserError, nearest

AUTO = "auto"
LOADERS: dict[str, Callable[..., Loader]] = {"cpu": CpuLoader}
OWN = "{_target_: my_package.MyLoader}"  # how a loader from elsewhere is named


@dataclass(frozen=True)
class LoaderChoice:
    """A loader that was chosen, not yet built; ``str()`` says in one line which and why."""

    name: str
    why: str
    factory: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"loader: {self.name} ({self.why})"

    def build(self, **arguments: Any) -> Loader:
        """The loader of these ``arguments``, which ``Loader`` lists.

        Raises UserError where it does not take them, is no loader, or cannot read these datasets.
        """
        try:
            inspect.signature(self.factory).bind(**arguments, **self.settings)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"data.loader: {self.name} does not take the arguments that it is given: {error}"
            ) from error
        loader = self.factory(**arguments, **self.settings)
        if not isinstance(loader, Loader):
            raise UserError(
                f"data.loader: {self.name} is not a dira_scale.data.loaders.Loader: see there what it needs"
            )
        return loader


def choose(loader: str | dict[str, Any]) -> LoaderChoice:
    """The loader that ``data.loader`` names: ``auto``, one of ``LOADERS``, or ``_target_`` with its settings.

    Raises UserError, with the nearest name, where there is no such loader.
    """
    if loader == AUTO:
        return LoaderChoice("cpu", f"data.loader={AUTO}: the only one so far", CpuLoader)
    if isinstance(loader, dict):
        return _own(loader)
    if str(loader) not in LOADERS:
        names = [AUTO, *LOADERS]
        raise UserError(f"data.loader={loader}: expected {', '.join(names)} or {OWN}{nearest(str(loader), names)}")
    return LoaderChoice(loader, f"data.loader={loader}", LOADERS[loader])


def _own(node: dict[str, Any]) -> LoaderChoice:
    target = node.get("_target_")
    if target is None:
        raise UserError(f"data.loader._target_ is missing: expected {OWN}")
    module, _, name = str(target).rpartition(".")
    try:
        factory = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.loader._target_: {target} cannot be imported: {error}") from error
    settings = {key: value for key, value in node.items() if key != "_target_"}
    return LoaderChoice(target, "data.loader._target_", factory, settings)
