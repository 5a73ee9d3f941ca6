"""The configuration of a stage."""

from dataclasses import dataclass

from omegaconf import MISSING

from dira_scale.config.schema import Schema, at_least
from dira_scale.errors import UserError


@dataclass
class Stage(Schema):
    terms: list[str] = MISSING
    epochs: float = at_least(0)
    patience: int | None = at_least(1, None)
    batch: int | None = at_least(1, None)

    def __post_init__(self) -> None:
        """Raises UserError for a stage without terms."""
        super().__post_init__()
        if not self.terms:
            raise UserError("terms=[]: name at least one loss term, or set epochs=0 to skip the stage")
