"""``pretrain`` with a loader from elsewhere, and with data that it cannot read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SMALL, assert_equal_runs, pretrain
from train.data.volumes import make, random_volumes

from dira_scale.pretrain import main
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader


class Named:
    """A loader of one's own: the CPU loader's batches, each noted under a name."""

    noted: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, spec: LoaderSpec, name: str) -> None:
        self.name, self.inner = name, CpuLoader(spec)

    def seconds(self) -> dict[str, float]:
        return self.inner.seconds()

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        for batch in self.inner.iterate(start_step, stop_step):
            self.noted.append((self.name, batch.step))
            yield batch


def test_a_run_is_trained_and_resumed_with_any_loader(shards: Path, tmp_path: Path) -> None:
    loader = f"data.loader={{_target_: {__name__}.Named, name: ours}}"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(pretrain(whole, shards, SMALL, loader, "steps=3")[3:]) == 0
    trained = [step for name, step in Named.noted if name == "ours"]
    assert {0, 1, 2} <= set(trained)
    assert main(pretrain(parts, shards, SMALL, "steps=2")[3:]) == 0
    assert main(pretrain(parts, shards, SMALL, loader, "steps=3")[3:]) == 0
    assert_equal_runs(parts, whole)
    runs = [json.loads((run / "environment.json").read_text())["run"] for run in (whole, parts)]
    assert runs[0] == runs[1]
    printed = [line for line in (parts / "log.txt").read_text().splitlines() if line.startswith("loader: ")]
    assert printed == [
        "loader: cpu (data.loader=auto: no GPU), 1 thread(s)",
        f"loader: {__name__}.Named (data.loader._target_), 1 thread(s)",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.loader=cup"], "data.loader=cup: expected auto, cpu, .* or .* did you mean 'cpu'"),
        (["data.shards=volumes"], "volumes holds volumes, and this training reads images: .* recipe.slices=axial"),
    ],
)
def test_what_cannot_be_read_leaves_no_run_folder(
    overrides: list[str], message: str, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "volumes", random_volumes(3), val=1)
    assert main(pretrain(tmp_path / "run", shards, *overrides)[3:]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()
