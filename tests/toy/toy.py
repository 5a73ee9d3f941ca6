"""``python -m dira_scale.toy number=N out=FOLDER``: a command of its own, as small as one can be (test_new_verb.py)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dira_scale.config.compose import run_verb
from dira_scale.config.schema import Schema, at_least, place
from dira_scale.errors import UserError


@dataclass
class Toy(Schema):
    number: int = at_least(0)
    after: str | None = place()
    workers: int = at_least(1)
    out: str = place()


def check(cfg: DictConfig) -> None:
    """Raises UserError for a number that it refuses."""
    if cfg.number == 13:
        raise UserError("number=13: expected a number that is not 13")


def toy(cfg: DictConfig) -> None:
    """Write the square; fail as long as the file ``after`` is missing."""
    check(cfg)
    if cfg.after and not Path(cfg.after).exists():
        raise RuntimeError(f"{cfg.after} is missing")
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    (Path(cfg.out) / "square.txt").write_text(json.dumps([cfg.number, cfg.number**2]))


def results(output: Path) -> tuple[Iterator[tuple[str, float]], dict[str, Any]]:
    """The square, and its root beside it."""
    number, square = json.loads((output / "square.txt").read_text())
    return iter({"square": square, "root": number}.items()), {"number": number}


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("toy", toy, argv)


if __name__ == "__main__":
    raise SystemExit(main())
