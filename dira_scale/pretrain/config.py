"""The schema of ``configs/pretrain.yaml``. Like all schemas it does without torch, so mistakes are shown at once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

from dira_scale.base.arguments import Above, ArgumentError, AtLeast
from dira_scale.base.config.border import at
from dira_scale.base.config.parts import GROUP, PARTS
from dira_scale.base.config.schema import Schema, one_of, setting
from dira_scale.base.errors import UserError
from dira_scale.train.config import Stage, StagedTraining, Validate
from dira_scale.train.distributed.config import AUTO
from dira_scale.train.engine.config import Optim
from dira_scale.train.models.architecture import Architecture, normalisation_of
from dira_scale.train.models.hub import local, pin
from dira_scale.train.models.precheck import starts
from dira_scale.train.planned import Planned
from dira_scale.train.runs.description import NORMALISATIONS


@dataclass
class AdversaryConfig(Schema):
    loss: str = setting(one_of("lsgan", "minimax", "wgan_gp", "wgan_gp_released"))
    penalty: float = setting(Above(0))
    precision: str = setting(one_of(AUTO, "fp32", "bf16"))

    def __post_init__(self) -> None:
        """Raises ArgumentError for a Wasserstein adversary in bf16."""
        super().__post_init__()
        if self.precision == "bf16" and self.loss.startswith("wgan"):
            raise ArgumentError("precision", self.precision, f"fp32: loss {self.loss} differentiates the scores twice")


@dataclass
class PretrainStage(Stage):
    size: int | None = setting(AtLeast(8), None)


@dataclass
class PretrainValidate(Validate):
    pictures: int = setting(AtLeast(1))
    restored: int = setting(AtLeast(2))


@dataclass
class HealthConfig(Schema):
    every: int = setting(AtLeast(1))


@dataclass
class PretrainOptim(Optim):
    discriminator: dict[str, Any] = MISSING


@dataclass
class Pretrain(StagedTraining):
    model: Architecture = field(default_factory=Architecture)
    channels: int | None = setting(AtLeast(1), None)
    normalise: str | None = setting(one_of(*NORMALISATIONS), None)
    frozen_blocks: int = setting(AtLeast(0), 0)
    stages: dict[str, PretrainStage] = MISSING  # type: ignore[assignment]
    method: dict[str, Any] = MISSING
    views: dict[str, Any] = MISSING
    optim: PretrainOptim = field(default_factory=PretrainOptim)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    validate: PretrainValidate = field(default_factory=PretrainValidate)
    health: HealthConfig = field(default_factory=HealthConfig)

    @classmethod
    def adopt(cls, config: DictConfig, typed: Collection[str]) -> None:
        """Addresses in ``model.weights`` and of teachers are pinned; what a run's weights expect of images goes on.

        Raises UserError for a preset without settings for the method that was chosen, and as :func:`pin`.
        """
        method, preset = (config.hydra.runtime.choices[group] for group in ("method", "preset"))
        folders = [Path(path.removeprefix("file://")) for path in config.hydra.searchpath]
        files = [file.stem for path in folders for file in (path / GROUP).glob(f"*_{preset}.yaml")]
        methods = {*config.get(PARTS, {}), *(name.removesuffix(f"_{preset}") for name in files)}
        if preset is not None and method not in methods:
            raise UserError(
                f"preset={preset} has no settings for method={method}, but for "
                f"{', '.join(sorted(name for name in methods if not name.startswith('_')))}: leave the preset out, "
                f"or add {GROUP}/{method}_{preset}.yaml to a folder of --config-dir"
            )
        if not issubclass(cls, Planned):  # which reads no weights
            for key in starts(config):
                pin(config, key)
            if config.model.get("weights") and "normalise" not in typed and config.normalise is None:
                config.normalise = normalisation_of(local(config.model.weights))

    def bn_groups(self, batch: int) -> int:
        with at("model"):
            return self.model.groups(batch)

    def keep(self, config: DictConfig, before: Mapping[str, Any]) -> None:
        super().keep(config, before)
        written = before.get("adversary", {}).get("precision")  # fp32, of older runs
        if self.adversary.precision == AUTO and written:
            config.adversary.precision = written
            self.adversary.precision = before.get("adversary_precision_used", config.adversary.precision)


@dataclass
class PlannedPretrain(Planned, Pretrain):
    """The schema of ``configs/plan.yaml``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversary.precision == AUTO:
            self.adversary.precision = "bf16" if self.precision == "bf16" else "fp32"  # a GPU's
