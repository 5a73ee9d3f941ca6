"""The commands that install what is missing here, or repair it."""

import sys
from importlib.util import find_spec
from pathlib import Path

from etils.epy import lazy_imports

with lazy_imports():
    import torch

CHECKOUT = Path(__file__).parents[3]


def install_command(extra: str = "") -> str:
    """The command that installs one of our extras without changing torch: from the checkout, or for the wheel."""
    if _in_checkout():
        return f"cd {CHECKOUT} && python3 setup/install.py {extra}".rstrip()
    kept = f" torch=={torch.__version__}" if has_torch() else ""
    return f"{sys.executable} -m pip install 'dira_scale{f'[{extra}]' if extra else ''}'{kept}"


def _in_checkout() -> bool:
    return (CHECKOUT / "setup" / "install.py").is_file()


def has_torch() -> bool:
    """Return whether torch is installed, without importing it."""
    return find_spec("torch") is not None


def torch_build() -> str:
    """torch's version, and the CUDA version that it was built for."""
    return f"{torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU build'})"


def repair_torch() -> str:
    """The command that installs a torch which can use this machine's GPUs."""
    if _in_checkout():
        return f"cd {CHECKOUT} && rm -rf .venv && ACCELERATOR=cuda make setup"
    plain = torch.__version__.partition("+")[0]
    return f"{sys.executable} -m pip install --force-reinstall torch=={plain}   (in the build for the driver's CUDA)"


def dali_extra() -> str:
    """The extra with the DALI for the CUDA version that torch was built with."""
    return "dali-cuda12" if has_torch() and (torch.version.cuda or "").startswith("12.") else "dali"
