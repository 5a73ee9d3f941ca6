"""The schema of ``parallel.*`` and the names of precisions, apart from what uses them: reading these needs no torch."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, at_least, one_of, whole_or
from dira_scale.errors import UserError

AUTO = "auto"
EXACT, FAST = "exact", "fast"  # attention
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # tf32 is fp32 as computed by tensor cores


@dataclass
class Parallel(Schema):
    strategy: str = one_of("ddp", "fsdp2", "zero1", "zero2", "zero3")
    accumulate: int = at_least(1)
    threads: Any = whole_or(AUTO, 1)
    checkpoint_activations: bool = MISSING
    channels_last: bool | None = None
    compile: bool = MISSING
    offload: bool = MISSING
    timeout: int = at_least(1)
    device: str | None = one_of("cpu", default=None)
    cuda_graphs: bool = MISSING
    attention: str = one_of(EXACT, FAST)

    def __post_init__(self) -> None:
        """Raises UserError for an option that the strategy does not support."""
        super().__post_init__()
        zero = self.strategy.startswith("zero")
        if self.compile is True and zero:
            raise UserError(f"compile=true is untested with {self.strategy}; use parallel=ddp or fsdp2")
        if self.cuda_graphs is True and (self.compile is False or self.strategy == "fsdp2"):
            raise UserError("cuda_graphs=true captures compiled blocks; set compile=true, with parallel=ddp")
        if self.cuda_graphs is True and self.accumulate not in (1, MISSING):
            # Gradients of the first micro-batches lie in memory that the next replay writes over (pytorch #96693).
            raise UserError(
                f"cuda_graphs=true with accumulate={self.accumulate}: torch may add up wrong gradients, without an "
                "error; use accumulate=1, or cuda_graphs=false"
            )
        if self.offload is True and not zero:
            raise UserError(f"offload=true: {self.strategy} has no offloading; use parallel=zero1, zero2 or zero3")
