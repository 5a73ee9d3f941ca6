"""The schema of ``parallel.*`` and the names of precisions, apart from what uses them: reading these needs no torch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import MISSING

from dira_scale.base.arguments import ArgumentError, AtLeast
from dira_scale.base.config.schema import Schema, one_of, setting

AUTO = "auto"
Threads = Literal["auto"] | Annotated[int, AtLeast(1)]
EXACT, FAST = "exact", "fast"  # attention
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # tf32 is fp32 as computed by tensor cores


@dataclass
class Parallel(Schema):
    strategy: str = setting(one_of("ddp", "fsdp2", "zero1", "zero2", "zero3"))
    accumulate: int = setting(AtLeast(1))
    threads: Any = setting(Threads)
    checkpoint_activations: bool = MISSING
    channels_last: bool | None = None
    compile: bool = MISSING
    offload: bool = MISSING
    timeout: int = setting(AtLeast(1))
    device: str | None = setting(one_of("cpu"), None)
    graph: Any = setting(Literal["auto"] | bool)
    attention: str = setting(one_of(EXACT, FAST))
    shard: Any = setting(Threads, AUTO)

    def __post_init__(self) -> None:
        super().__post_init__()
        zero = self.strategy.startswith("zero")
        if self.compile is True and zero:
            raise ArgumentError(
                "compile", True, f"false with strategy {self.strategy}: compiled blocks are tested with ddp and fsdp2"
            )
        if self.offload is True and not zero:
            raise ArgumentError("offload", True, f"false with strategy {self.strategy}: zero1, zero2 and zero3 offload")
        if self.shard != AUTO and self.strategy != "fsdp2":
            raise ArgumentError("shard", self.shard, f"{AUTO} with strategy {self.strategy}: fsdp2 shards parameters")


def check_shard(shard: Any, ranks: int) -> None:
    """Raise ArgumentError unless ``shard``, of ``parallel``, divides so many processes."""
    if shard != AUTO and ranks % shard:
        divisors = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
        raise ArgumentError("shard", shard, f"{AUTO}, or a divisor of {ranks} processes: {divisors}")
