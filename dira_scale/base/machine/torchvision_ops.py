"""Makes torchvision importable even if its native library cannot load.

torchvision's default wheel is built for CUDA. With a CPU build of torch its library does not load, and the import fails
at the first operator that it describes (``operator torchvision::nms does not exist``); timm, smp and ``accelerate
launch`` fail with it. Declaring those operators without an implementation is enough, as nothing here calls them. This
must happen before the first import of torchvision, hence a ``.pth`` file, which Python runs at start-up::

    python -m dira_scale.base.machine.torchvision_ops      (the set-up calls it; does nothing if the library loads)

This file is copied into site-packages, so it imports only the standard library and torch.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAME = "dira_scale_torchvision_ops"
MISSING = ("nms", "qnms")  # the two that torchvision describes to torch even if its library did not load
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: list[object] = []  # keeps each torch.library.Library alive


class DeclareFirst:
    """An import hook for torchvision: on its first import, declares what is missing, then removes itself."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """torchvision's ordinary spec; None for every other module."""
        if name != "torchvision":
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin and not loads(Path(spec.origin).parent):
            declare()
        return spec


def register() -> None:
    """Put the hook before Python's own finders; torch is not imported before torchvision is."""
    if DeclareFirst not in sys.meta_path:  # Python reads the .pth files of a virtual environment twice
        sys.meta_path.insert(0, DeclareFirst)


def loads(package: Path) -> bool:
    """Return whether the native library of the torchvision in ``package`` loads with this torch."""
    import torch

    try:
        torch.ops.load_library(str(package / "_C.so"))
    except OSError:
        return False
    return True


def declare() -> None:
    """Declare the missing operators without an implementation: calling one raises NotImplementedError."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in MISSING:
        library.define(operator + SIGNATURE)
    _declared.append(library)


def state() -> str:
    """``native``, ``declared`` (importable through the hook), ``broken`` or ``absent``; found in a fresh Python."""
    code = (
        "import importlib.util as u\n"
        "if u.find_spec('torchvision') is None: print('absent')\n"
        "else:\n"
        "    import torchvision.extension as e; print('native' if e._has_ops() else 'declared')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.split()[-1] if done.returncode == 0 else "broken"


def main() -> int:
    """Install the hook into this environment if torchvision cannot be imported without it."""
    if state() == "broken":
        site_packages = Path(sysconfig.get_path("purelib"))
        shutil.copyfile(__file__, site_packages / f"{NAME}.py")
        (site_packages / f"{NAME}.pth").write_text(f"import {NAME}; {NAME}.register()\n")
        if state() == "broken":
            print("torchvision cannot be imported, even with its operators declared: python -c 'import torchvision'")
            return 1
        print("torchvision  is built for CUDA; its operators are declared, so that this torch can import it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
