"""The order of copies and steps on a GPU, by streams that only note what is queued and what waits for what."""

import inspect
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dira_scale.train.data import device_copies
from dira_scale.train.data.device_copies import DeviceCopies, StageSeconds

BATCHES = 5


class Stream:
    """What is queued here, each with all that is over before it begins."""

    def __init__(self, *_: object) -> None:
        self.before: set[str] = set()  # what has ended, or will have, when the next operation begins

    def queue(self, name: str, began_after: dict[str, set[str]]) -> None:
        began_after[name] = set(self.before)
        self.before.add(name)

    def record_event(self) -> set[str]:
        return set(self.before)

    def wait_event(self, event: set[str]) -> None:
        self.before |= event

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())


class Copied:
    """A batch on the device."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A pretended GPU: ``computing`` is its stream of steps, ``current`` that of the copies within ``stream(…)``."""
    found = SimpleNamespace(computing=Stream(), current=None)

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        found.current = chosen
        yield
        found.current = None

    cuda = SimpleNamespace(Stream=Stream, current_stream=lambda _: found.computing, stream=stream)
    monkeypatch.setattr(device_copies, "torch", SimpleNamespace(cuda=cuda))
    return found


def test_a_step_waits_for_no_later_batch_and_its_memory_is_not_reused(device: SimpleNamespace) -> None:
    began_after: dict[str, set[str]] = {}
    requested: list[str] = []  # by the host, in order
    alive: dict[int, Any] = {}
    closed = []

    def loader() -> Generator[Any, None, None]:
        try:
            for k in range(BATCHES):
                requested.append(f"batch {k}")
                yield SimpleNamespace(copy_to=lambda _, k=k: copy_of(k))
        finally:
            closed.append(True)

    def copy_of(k: int) -> Copied:
        device.current.queue(f"copy {k}", began_after)
        reused = [i for i, batch in alive.items() if batch() is None]
        assert {f"step {i}" for i in reused} <= began_after[f"copy {k}"], "a batch is overwritten while it is read"
        copied = Copied()
        alive[k] = weakref.ref(copied)
        return copied

    device.computing.queue("earlier steps", began_after)  # of another stage, whose batches' memory is free by now
    copies = DeviceCopies(torch.device("cuda"), StageSeconds())
    for k, batch in enumerate(copies.beside(loader())):
        assert isinstance(batch, Copied)
        device.computing.queue(f"step {k}", began_after)
        requested.append(f"step {k}")
        del batch
    assert requested == [f"{what} {k}" for k in range(BATCHES) for what in ("batch", "step")]
    assert began_after["copy 0"] == {"earlier steps"}
    for k in range(BATCHES):
        assert f"copy {k}" in began_after[f"step {k}"]
        assert f"step {k - 1}" not in began_after[f"copy {k}"], "the copy does not run beside the step before it"
    assert [ref() for ref in alive.values()] == [None] * BATCHES and closed


def test_closing_it_closes_the_loader(device: SimpleNamespace) -> None:
    loader = (SimpleNamespace(copy_to=lambda _: Copied()) for _ in range(BATCHES))
    batches = DeviceCopies(torch.device("cuda"), StageSeconds()).beside(loader)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert inspect.getgeneratorstate(loader) == inspect.GEN_CLOSED
