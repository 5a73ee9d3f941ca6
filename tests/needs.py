"""What a test needs beyond what `make test` installs. Without it the test skips; once it is there, `make test-rest`
runs the test (tests/tiers.py)."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

REAL = Path(os.environ.get("DIRA_SCALE_DATA", Path(__file__).parents[2] / "shared" / "data"))  # real images

EXTRAS = {  # of the set-up, and the modules that each must bring
    "deepspeed": ("deepspeed", "transformers"),
    "dali": ("nvidia.dali",),
    "ffcv": ("ffcv",),
    "excel": ("openpyxl",),
    "peft": ("peft",),
    "dicomseg": ("highdicom",),
    "croissant": ("mlcroissant",),
    "triton": ("triton",),
    "trackers": ("wandb", "mlflow", "sqlalchemy", "alembic"),
    "notebooks": ("ipykernel", "nbclient"),
    "docs": ("mkdocs", "mkdocstrings"),
}


def installed(module: str) -> bool:
    """Whether ``module`` can be found; of ``a.b``, ``a`` is imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def skip_without(piece: str, reason: str) -> None:
    """Skip the test for ``reason``, if there is one; fail it where ``piece`` is among DIRA_SCALE_REQUIRE."""
    required = os.environ.get("DIRA_SCALE_REQUIRE", "").split(",")
    if reason and piece in required:
        pytest.fail(f"DIRA_SCALE_REQUIRE has {piece}: {reason}")
    if reason:
        skip = pytest.skip.Exception(reason)
        skip.lacking = piece  # type: ignore[attr-defined]  # tests/tiers.py asks for it
        raise skip


def need_extra(extra: str) -> None:
    """Skip, or fail, where a module of one of ``EXTRAS`` is missing."""
    missing = [module for module in EXTRAS[extra] if not installed(module)]
    skip_without(extra, f"{', '.join(missing)} not installed: python3 setup/install.py {extra}" if missing else "")


def real_data(folder: str = "") -> Path:
    """A folder of real images; without them the test is skipped."""
    if not (REAL / folder).is_dir():
        pytest.skip(f"{REAL / folder} is absent: DIRA_SCALE_DATA names the folder of real images")
    return REAL / folder
