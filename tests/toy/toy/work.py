"""What `toy` does, refuses and leaves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dira_scale.base.errors import UserError


def check(cfg: DictConfig) -> None:
    """Raises UserError for a number that it refuses."""
    if cfg.number == 13:
        raise UserError("number=13: expected a number that is not 13")


def write_square(cfg: DictConfig) -> None:
    """Write the square; fail as long as the file ``after`` is missing."""
    check(cfg)
    if cfg.after and not Path(cfg.after).exists():
        raise RuntimeError(f"{cfg.after} is missing")
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    (Path(cfg.out) / "square.txt").write_text(json.dumps([cfg.number, cfg.number**2]))


def results(output: Path) -> tuple[Iterator[tuple[str, float]], dict[str, Any], set[str]]:
    """The square, and its root beside it."""
    number, square = json.loads((output / "square.txt").read_text())
    return iter({"square": square, "root": number}.items()), {"number": number}, {"square"}
