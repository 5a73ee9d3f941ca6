"""Loaders and the steps that they feed, in turns within one training run: alone, and both at once."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from benchmarks import synthetic
from dira_scale.data.batch import Batch
from dira_scale.data.loaders import Loader
from dira_scale.data.views import ViewSpec


class LoaderTurns(synthetic.SyntheticImages):
    """Hands the trainer batches from memory and from each loader in turns, and reads each loader alone in between.

    Args:
        loaders: by name; all are read from the same steps on.
        prefetch: batches that a loader keeps ready; as many and one are read before the clock starts.
        wait: for the device, before the clock is read.

    Attributes:
        steps_alone: seconds of ``steps`` steps on one batch, round by round.
        taken: of each loader, likewise: ``loader`` alone, ``both``, and what of that was ``wait`` for a batch.
        broken: loaders that failed midway, and why; the others go on.
    """

    def __init__(
        self,
        views: ViewSpec,
        loaders: Mapping[str, Loader],
        prefetch: int,
        steps: int,
        rounds: int,
        wait: Callable[[], None],
    ) -> None:
        super().__init__(views)
        self.loaders, self.steps, self.rounds, self.wait = loaders, steps, rounds, wait
        self.warm = prefetch + 1  # batches
        self.length = steps + rounds * (steps + len(loaders) * (self.warm + steps))  # of all the trainer's steps
        self.steps_alone: list[float] = []
        self.taken: dict[str, dict[str, list[float]]] = {
            name: {"loader": [], "both": [], "wait": []} for name in loaders
        }
        self.broken: dict[str, str] = {}

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Some steps to warm up, then all turns; one batch more is for the trainer's last checkpoint."""
        with closing(next(iter(self.loaders.values())).iterate(0, 1)) as batches:
            kept = next(batches)
        for _ in range(self.steps):
            yield kept
        for turn in range(self.rounds):
            with self._timed(self.steps_alone):
                for _ in range(self.steps):
                    yield kept
            for name in [name for name in self.loaders if name not in self.broken]:
                yield from self._turn(name, turn * 2 * (self.warm + self.steps))
        yield kept

    def _turn(self, name: str, first: int) -> Iterator[Batch]:
        """A loader alone, then with the steps; both times its queue is filled before."""
        loader, taken = self.loaders[name], self.taken[name]
        try:
            with closing(loader.iterate(first, first + 2 * (self.warm + self.steps))) as batches:
                for _ in range(self.warm):
                    next(batches)
                with self._timed(taken["loader"]):
                    for _ in range(self.steps):
                        next(batches)
                for _ in range(self.warm):
                    yield next(batches)
                waited = loader.seconds()["wait"]
                with self._timed(taken["both"]):
                    for _ in range(self.steps):
                        yield next(batches)
                taken["wait"].append(loader.seconds()["wait"] - waited)
        except Exception as error:  # one that breaks must not cost the others
            self.broken[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    @contextmanager
    def _timed(self, result: list[float]) -> Iterator[None]:
        """Add the seconds of the body."""
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        result.append(time.perf_counter() - began)

    def figures(self, batch: int) -> dict[str, Any]:
        """Images/s of the steps alone; ``figures`` of each loader, or how it was ``broken``."""
        rows: dict[str, Any] = {name: {"broken": why} for name, why in self.broken.items()}
        for name in [name for name in self.loaders if name not in self.broken]:
            rows[name] = figures(self.steps_alone, **self.taken[name], steps=self.steps, batch=batch)
        alone = self.steps * batch / statistics.median(self.steps_alone)
        return {"step": alone, "loaders": {name: rows[name] for name in self.loaders}}


def figures(
    step: Sequence[float], loader: Sequence[float], both: Sequence[float], wait: Sequence[float], steps: int, batch: int
) -> dict[str, float]:
    """Of turns of ``steps`` steps, from seconds round by round.

    ``loader`` and ``both``: images/s. ``share``: both / the steps alone. ``ratio``: both / the slower of loader and
    steps alone, by medians; ``lowest`` and ``highest`` in a round. ``wait_ms``: of a step, for its batch.
    """
    middle = {"step": statistics.median(step), "loader": statistics.median(loader), "both": statistics.median(both)}
    rounds = sorted(max(a, b) / c for a, b, c in zip(step, loader, both, strict=True))
    return {
        "loader": steps * batch / middle["loader"],
        "both": steps * batch / middle["both"],
        "share": middle["step"] / middle["both"],
        "ratio": max(middle["step"], middle["loader"]) / middle["both"],
        "lowest": rounds[0],
        "highest": rounds[-1],
        "wait_ms": 1e3 * statistics.median(wait) / steps,
    }


def text(result: Mapping[str, Any]) -> str:
    """The figures as a table; a loader that cannot read the shards here, or broke, says why.

    ``times_authors`` of a loader gets a column of its own where there is one.
    """
    rows = result["loaders"]
    wide, compared = max(10, 2 + max(map(len, rows))), any("times_authors" in row for row in rows.values())
    lines = [
        f"{result['device']}, batch {result['batch']} of {result['size']} pixels; images/s of the steps alone: "
        f"{result['step']:,.1f}",
        f"{'loader':<{wide}}{'alone':>10}{'with steps':>12}{'/ steps alone':>15}{'/ the slower':>23}"
        f"{'ms of waiting':>15}" + (f"{'x authors':>11}" if compared else ""),
    ]
    for name, row in rows.items():
        if why := row.get("left_out") or row.get("broken"):
            lines.append(f"{name:<{wide}}  {why}")
            continue
        spread = f"{row['ratio']:.3f} ({row['lowest']:.3f}-{row['highest']:.3f})"
        lines.append(
            f"{name:<{wide}}{row['loader']:>10,.1f}{row['both']:>12,.1f}{row['share']:>15.3f}{spread:>23}"
            f"{row['wait_ms']:>15.1f}" + (f"{row['times_authors']:>11.2f}" if "times_authors" in row else "")
        )
    return "\n".join(lines)
