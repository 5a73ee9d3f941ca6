"""A stage as it is configured."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Stage:
    terms: list[str] = MISSING
    epochs: float = MISSING
    patience: int | None = None
    batch: int | None = None
