"""``pytest --resume``: hours of tests that were interrupted go on where they stopped (``make torture``). ``pytest
--rest``: what ``make test`` left (``make test-rest``). Signals that whoever started the tests ignores reach the
processes that the tests start."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from here import Here
from omegaconf import OmegaConf
from shared_bases import composed, parsed
from tiers import MAKE_TEST, Passed, Ran, Rest, Tier

from dira_scale.base.config import compose
from dira_scale.base.config.trust import trust
from dira_scale.base.machine import workers

with suppress(ImportError):  # a GPU machine has only what is carried there
    import hypothesis

    hypothesis.settings.register_profile("tests", deadline=None)  # how long an example takes says nothing
    hypothesis.settings.load_profile("tests")
# Patients are divided by it: each machine's own key would give each its own tests, and be written to a home folder.
os.environ["DIRA_SCALE_HASH_KEY"] = "a key for tests only, of some length"
if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for every core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Searches for garbage among all that tests import, as often as Python makes them, take a tenth of the time.
gc.set_threshold(10_000, 10, 10)
# A pool of processes takes a second or two to start; those of two workers and more, and commands, have one.
pool = workers.worker_pool
workers.worker_pool = lambda count, *given: (Here if count == 1 else pool)(count, *given)  # type: ignore[assignment]

# Classes of the tests' own, which they give to functions as a user types them.
trust(["tests", "train", "own_methods", "my_loaders", "my_methods", "nowhere", "no_such_module", "no_dots", "Folder"])
trust(["3", "Net", "os", "builtins", "collections"])


@pytest.fixture
def libraries() -> None:
    """What computes figures, an extra; without it a test is skipped."""
    pytest.importorskip("monai")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--resume", action="store_true", help="leave out what has passed since the last change")
    parser.addoption("--rest", action="store_true", help="leave out what the last `make test` ran")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Tier())
    noting = hasattr(config, "cache") and not hasattr(config, "workerinput")  # it has a place, and is no xdist worker
    if config.getoption("rest"):
        config.pluginmanager.register(Rest(config))
    elif noting and config.option.markexpr == MAKE_TEST:
        config.pluginmanager.register(Ran(config))
    if config.getoption("resume"):
        config.pluginmanager.register(Passed(config))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """A test that needs a GPU is skipped without one, but only here, after its fixtures: a rehearsal of `bench gpu`
    shows that they have all packages that they need."""
    if pyfuncitem.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session", autouse=True)
def heard() -> Iterator[None]:
    """Under ``nohup`` and in a shell's background some signals are ignored, and a program inherits that. It does not
    inherit a handler, so one that does nothing leaves this process as it was and gives its children the defaults.

    A fixture, so that of pytest-xdist only the workers do it: they too go on ignoring what was ignored.
    """
    names = signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2
    ignored = [number for number in names if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def files_are_parsed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", parsed)
        yield


@pytest.fixture(scope="module", autouse=True)
def shared_bases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Command lines share what Hydra composes, a quarter of a second each, but in the tests of composing itself."""
    with pytest.MonkeyPatch.context() as patch:
        if "config" not in request.path.parts:
            patch.setattr(compose, "_hydra", composed)
        yield


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A run in a test's own process sets torch's number of threads: the next test has that of before."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def cores() -> Iterator[None]:
    """A test's process has its share of the cores, whatever else computes: that is watched for 0.3 s at each start."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with pytest.MonkeyPatch.context() as patch:
        if processes := sys.modules.get("dira_scale.train.distributed.processes"):
            patch.setattr(processes, "idle_cores", lambda share: max(1, share // workers))
        yield


@pytest.fixture(scope="module", autouse=True)
def garbage() -> Iterator[None]:
    """A stage in a test's own process begins, and a run ends, without a full search for garbage, a third of a second
    with what all tests import. Processes of their own make it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dira_scale.train.engine.garbage", "accelerate.utils.memory"):
            if module := sys.modules.get(name):
                patch.setattr(module, "gc", SimpleNamespace(**{**vars(gc), "collect": lambda: 0}))
        yield
