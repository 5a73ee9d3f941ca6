"""What a node's processes map: made by one of them, private to none, and what earlier versions made in each."""

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_manifest import made_up

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage import node
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import Codes
from dira_scale.train.data import mapped
from dira_scale.train.data.groups import Groups
from dira_scale.train.data.repeats import Repeats
from dira_scale.train.data.selection import select


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setattr(mapped, "SMALL", 0)
    return tmp_path / "cache" / "dira_scale" / "manifests"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[ShardedDataset]:
    folder = tmp_path_factory.mktemp("made_up")
    paths = [made_up(folder / str(i), 4000 + i * 800, of_patient=3 - i) for i in range(2)]
    return [ShardedDataset.open(path, check_shards=False) for path in paths]


@pytest.mark.parametrize(
    ("chosen", "identity"),
    [
        ((0.1, 0, None, False), "371c07ff516ffea9"),
        ((0.3, 5, None, True), "17489e481d1e5bbc"),
        ((0.25, 1, 2, False), "fba8c589f6c4009f"),
        ((1.0, 0, 3, False), "4429fa954fcb0c26"),
    ],
)
def test_golden_selections(
    datasets: list[ShardedDataset], chosen: Any, identity: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the version before this file chose; a file has it, in chunks of any size, and another process maps it."""
    monkeypatch.setattr(mapped, "CHUNK", 1000)
    first = select(datasets, "train", [1.0, 0.5], *chosen)
    assert first and first.identity[:16] == identity and len([*place.glob("*.selection")]) == 1
    del first.__dict__["identity"]
    again = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 500 and again.identity == first.identity and (again.weights == first.weights)
    everyone = np.arange(first.split_size)
    assert (np.flatnonzero(first.find(everyone) >= 0) == np.sort(first.samples)).all()
    assert (first.samples[first.find(first.samples)] == first.samples).all()
    repeats = Repeats(np.cumsum(everyone % 3))
    few = repeats.of(first)
    assert (few.ends == np.cumsum(first.samples % 3)).all() and len(pickle.dumps(few)) < 500
    monkeypatch.setattr(mapped, "made_once", lambda name, _: node.made_once(name, refuse))
    assert select(datasets, "train", [1.0, 0.5], *chosen).identity == first.identity  # type: ignore[union-attr]
    for path in place.iterdir():  # as of a month ago: the content itself is sent
        path.unlink()
    assert (pickle.loads(pickle.dumps(first)).samples == first.samples).all()


def refuse(_: Any) -> None:
    raise AssertionError("it is there")


class Made:
    """Samples of datasets whose every second row is in the split, with these studies."""

    def __init__(self, codes: list[np.ndarray], names: int) -> None:
        studies: list[Any] = [Codes(of, range(names)) for of in codes]  # type: ignore[arg-type]
        self.datasets = [SimpleNamespace(identity=str(number), studies=of) for number, of in enumerate(studies)]
        self.rows, self.split = [np.arange(0, len(of), 2) for of in codes], "train"
        self.sizes = tuple(map(len, self.rows))

    def __len__(self) -> int:
        return sum(self.sizes)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_groups_are_those_of_a_plain_list(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a study a sample is alone, and equal studies of two datasets are two."""
    monkeypatch.setattr(mapped, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    codes = [rng.integers(-1, 30, 200).astype(np.int32) for _ in range(2)]
    groups = Groups(Made(codes, 30), "session")  # type: ignore[arg-type]
    named = [(number, code) for number, of in enumerate(codes) for code in of[::2].tolist()]
    for sample, name in enumerate(named):
        alike = [other for other, its in enumerate(named) if its == name and other != sample and name[1] >= 0]
        every = np.full(len(alike), sample)
        assert groups.others(np.array([sample])) == len(alike)
        assert groups.other(every, np.arange(len(alike))).tolist() == alike
    alone: Any = Made([np.array([-1, 0, -1], np.int32)], 1)
    assert groups.several and not Groups(alone, "session").several


OPENED = """
import sys
import numpy as np
sys.path[:0] = sys.argv[1:2]
from train.data.test_mapped import Made
from dira_scale.train.data.groups import Groups

def private():
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

rows = 2 * 10**6
samples = Made([np.arange(rows, dtype=np.int32) // 4], rows)
before = private()
groups = Groups(samples, "session")
groups.other(np.arange(0, rows // 2, 1000), np.zeros(rows // 2000, int))
print(private() - before)
"""


def test_a_process_that_opens_what_is_made_keeps_none_of_it() -> None:
    """A million samples: as many bytes are a page's."""
    command = [sys.executable, "-c", OPENED, str(Path(__file__).parents[2])]
    _, opened = (int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout) for _ in range(2))
    assert opened < 10**6


MAKER = """
import sys, time
import numpy as np
from dira_scale.train.data import mapped

mapped.SMALL = 0

def make(write):
    with open(sys.argv[1], "a") as log:
        log.write("made ")
    write("first", [np.arange(1000)])
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    return {"sum": int(write("second", [np.arange(9), np.arange(9.0)[:0].astype(int)]).sum())}

print(mapped.mapped_once("test", "it", 10**7, make).facts["sum"])
"""


def test_one_of_two_processes_makes_it_also_after_one_was_killed(tmp_path: Path) -> None:
    def begin(seconds: float) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", MAKER, str(tmp_path / "log"), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = begin(60)
    assert killed.stdout and killed.stdout.readline() == "begun\n"
    killed.kill()
    killed.communicate(timeout=30)
    printed = [process.communicate(timeout=60)[0].split() for process in [begin(1), begin(1)]]
    assert sorted(printed) == [["36"], ["begun", "36"]] and (tmp_path / "log").read_text().split() == ["made"] * 2


def test_what_no_folder_can_keep_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_places", lambda: [(Path("/proc/nowhere"), False)])
    with pytest.raises(DatasetError, match=r"can keep the test, about 10 MB \(.*: set XDG_CACHE_HOME to a folder"):
        mapped.mapped_once("test", 1, 10**7, lambda write: {})
