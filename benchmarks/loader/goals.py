"""What the loader is held to, as ratios of two contenders of the same run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loader.speed import Result
from benchmarks.loader.turns import Spread, ratio

CPU, DISTORTED, DECODING, RESIZING = "ours: cpu", "ours: cpu, distorted", "limit: decoding", "limit: resizing"
FILES, RELEASED = "files, PIL", "original PNGs, released"
PACKAGES = ("webdataset", "FFCV", "DALI, CPU")  # measured in the run; those of peers.json are added


@dataclass(frozen=True)
class Goal:
    """One line: ``value`` should be at least ``needed``, or at most where ``below``."""

    text: str
    value: Spread
    needed: float
    below: bool = False

    @property
    def met(self) -> bool:
        """By the median."""
        return self.value.median <= self.needed if self.below else self.value.median >= self.needed


def goals(results: Sequence[Result], peers: Mapping[str, Any]) -> list[Goal]:
    """Those that the measured cases decide."""
    actual = []
    for result in results:
        speeds, case = result.speeds, result.case
        if case == "jpg8-1024":
            actual.append(Goal("two crops of JPEG at 1024 pixels / decoding alone", _of(speeds, CPU, DECODING), 0.7))
        if case.startswith("npy"):
            actual.append(Goal(f"two crops of {case} / resizing alone", _of(speeds, CPU, RESIZING), 0.7))
        if case == "jpg8-512" and RELEASED in speeds:
            text = "jpg8-512 with distortions / the released loading of the original PNGs"
            actual.append(Goal(text, _of(speeds, DISTORTED, RELEASED), 10))
        others = speeds | from_peers(result, peers)
        rivals = [name for name in others if name in PACKAGES or name not in speeds]
        if rivals:
            best = max(rivals, key=lambda name: Spread.of(others[name]).median)
            actual.append(Goal(f"{case}: first among the packages / {best}", ratio(speeds[CPU], others[best]), 1))
    return actual


def limit(result: Result) -> str:
    """What no loader passes: decoding alone, or resizing alone where nothing is decoded."""
    return DECODING if DECODING in result.speeds else RESIZING


def from_peers(result: Result, peers: Mapping[str, Any]) -> dict[str, list[float]]:
    """Images/s of the packages measured elsewhere (``peers.json``), from their ratios to ``files, PIL`` there."""
    return _carried_over(result.speeds, peers.get("cases", {}).get(result.case, {}).get("speeds", {}))


def cost_of_peers(result: Result, peers: Mapping[str, Any]) -> dict[str, list[float]]:
    """Their processor time, likewise."""
    return _carried_over(result.core_ms, peers.get("cases", {}).get(result.case, {}).get("core_ms", {}))


def _carried_over(here: Mapping[str, Sequence[float]], there: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    if FILES not in here or FILES not in there:
        return {}
    shares = {name: ratio(values, there[FILES]).median for name, values in there.items() if name != FILES}
    return {name: [Spread.of(here[FILES]).median * share] * len(here[FILES]) for name, share in shares.items()}


def _of(speeds: Mapping[str, Sequence[float]], first: str, second: str) -> Spread:
    return ratio(speeds[first], speeds[second])
