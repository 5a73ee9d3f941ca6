"""One of several corruptions, as TransVW has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, check_fields, inside
from dira_scale.train.data.distort.corruptions.draws import Params, of_some
from dira_scale.train.data.views.corruption import Corruption, check
from dira_scale.train.data.views.parts import Chance


@dataclass(frozen=True)
class OneOf:
    """Each of the corruptions ``of``, by name, with its probability in ``p``; none where they do not add up to 1.

    Parameters: ``choice`` int8 [b], -1 for none; ``NAME.PARAMETER`` of each.
    """

    of: Mapping[str, Corruption] = field(default_factory=dict)
    p: Mapping[str, Chance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.of or set(self.p) != set(self.of):
            raise ArgumentError("p", dict(self.p), f"a probability for each of {', '.join(self.of) or 'of'}")
        if sum(self.p.values()) > 1 + 1e-9:
            raise ArgumentError("p", dict(self.p), "probabilities that add up to at most 1")

    def numbers(self, size: Sequence[int]) -> int:
        with inside("of"):
            check(self.of, size)
        return 1 + sum(corruption.numbers(size) for corruption in self.of.values())

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        limits = np.cumsum([self.p[name] for name in self.of])
        choice = np.searchsorted(limits, u[:, 0], side="right")
        params = {"choice": np.where(choice < len(self.of), choice, -1).astype(np.int8)}
        first = 1
        for name, corruption in self.of.items():
            numbers = corruption.numbers(size)
            drawn = corruption.draw(u[:, first : first + numbers], size)
            params |= {f"{name}.{key}": values for key, values in drawn.items()}
            first += numbers
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        for number, (name, corruption) in enumerate(self.of.items()):
            start = f"{name}."
            of_this = {key.removeprefix(start): values for key, values in params.items() if key.startswith(start)}
            x = of_some(x, params["choice"] == number, of_this, corruption.apply)
        return x
