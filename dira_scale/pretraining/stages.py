"""A stage as it is configured."""

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
        """Raises UserError for a stage of no terms."""
        super().__post_init__()
        if not self.terms:
            raise UserError("terms=[]: name loss terms; epochs=0 leaves the stage out")
