"""The schema of ``configs/export.yaml``, apart from the formats: reading it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.base.arguments import Above, AtLeast
from dira_scale.base.config.border import at
from dira_scale.base.config.schema import Schema, one_of, path_field, paths_field, setting, several
from dira_scale.train.models.hub import Address

# Those of ``formats.py``.
FORMATS = ("timm", "huggingface", "smp", "monai", "onnx", "plain", "nnunet", "monai_bundle")


@dataclass
class CardWords(Schema):
    """The words of a card that its author writes, as a run does not record them."""

    developers: str | None = None
    contact: str | None = None
    intended_use: str = MISSING
    out_of_scope: str = MISSING
    bias: str | None = None
    citation: str | None = None
    start_licence: str | None = None
    start_data: str | None = None
    evaluation: Any = paths_field(None)
    watts: float | None = setting(Above(0), None)
    pue: float = setting(AtLeast(1))


@dataclass
class Export(Schema):
    run: str = path_field()
    trust: Any = setting(several(str), None)
    stage: str | None = None
    formats: Any = setting(several(one_of(*FORMATS)), None)
    out: str | None = path_field(None)
    push: str | None = None
    private: bool = MISSING
    reach: Any = paths_field()
    release: bool = MISSING
    card: CardWords = field(default_factory=CardWords)

    def __post_init__(self) -> None:
        """Raises UserError for a ``push`` to anything but a repository."""
        super().__post_init__()
        with at("push"):
            if self.push is not None and any(Address.of(self.push)[1:]):
                raise ValueError(f"{self.push}: a commit is added to the repository's branch main: name hf://ORG/NAME")
