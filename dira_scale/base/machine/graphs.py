"""Work of a device that is recorded once and replayed: graphs, and between them what the host launches itself.

A graph does the same operations on the same memory each time. What is otherwise from one time to the next, such as a
rate, a number of the host or a message to other processes, is launched in between.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
_current: "Recording | None" = None


class Graphs(Protocol):
    """Records parts of the work, one after another."""

    runs: bool  # whether it is done, too, while it is recorded

    def session(self) -> AbstractContextManager[Any]:
        """Around a recording."""

    def begin(self) -> None:
        """Record what follows."""

    def end(self) -> Callable[[], None]:
        """Return what replays the operations since :meth:`begin`."""


class Recording:
    """Parts of work, in order."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.parts, self.thread = graphs, list[Callable[[], object]](), get_ident()

    def of(self, work: Callable[[], T]) -> T:
        """Record ``work`` and return its result. A replay writes the tensors of the result; so does the recording, if
        ``graphs`` run what they record."""
        global _current
        with self.graphs.session():
            self.graphs.begin()
            _current = self
            try:
                result = work()
            except BaseException:
                with suppress(RuntimeError):  # what ends a recording that has failed may say so once more
                    self.graphs.end()
                raise
            finally:
                _current = None
            self.parts.append(self.graphs.end())
        return result

    def launch(self, work: Callable[[], object]) -> None:
        """Let ``work`` be a part between two graphs."""
        global _current
        if self.thread != get_ident():
            raise RuntimeError("a backward pass has work of the host in it, such as a message to other processes")
        self.parts += [self.graphs.end(), work]
        if self.graphs.runs:
            _current = None
            work()
            _current = self
        self.graphs.begin()

    def replay(self) -> None:
        for part in self.parts:
            part()


def recording() -> bool:
    return _current is not None


def launch(work: Callable[[], object]) -> None:
    """Do ``work``; where operations are recorded, at this place of every replay. Its results are changes in place."""
    if _current is None:
        work()
    else:
        _current.launch(work)


def number(value: Callable[[], float], device: torch.device) -> Tensor:
    """Return ``value()`` on ``device``, 0-dim float64; a replay asks for it again."""
    place = torch.empty((), dtype=torch.float64, device=device)
    launch(lambda: place.fill_(value()))
    return place


class DeviceOnly(TorchDispatchMode):
    """Raises where memory of the host is copied to a GPU: a graph would read it again when it is no longer there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[func.overloadpacket is torch.ops.aten.copy_]
            if result.is_cuda and source.device.type == "cpu":
                raise RuntimeError("memory of the host is copied to the GPU, of which a graph would keep the address")
        return result


class CudaGraphs:
    """CUDA graphs in one pool of memory."""

    runs = False

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextmanager
    def session(self) -> Iterator[None]:
        torch.cuda.synchronize(self.device)
        gc.collect()
        torch.cuda.empty_cache()  # memory that launched steps took, which the pool takes now
        number = torch.cuda.current_device()
        generator = torch.cuda.default_generators[number]
        before = generator.clone_state()
        try:
            with torch.cuda.stream(self.stream):  # the default stream cannot be captured
                yield
        except BaseException:  # torch leaves generator and allocator as within a capture (pytorch #171263)
            generator.graphsafe_set_state(before)
            with suppress(RuntimeError):  # unless it has ended that
                torch._C._cuda_endAllocateToPool(number, self.pool)
            raise

    def begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.capture_begin(self.pool, "thread_local")  # a loader's threads may copy meanwhile

    def end(self) -> Callable[[], None]:
        with warnings.catch_warnings():  # between two parts of the host's
            warnings.filterwarnings("ignore", "The CUDA Graph is empty")
            self._graph.capture_end()
        return self._graph.replay
