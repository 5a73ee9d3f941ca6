"""A folder of volumes through the whole converter: what lies in the shards is what was read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archive import ingest
from archive.imaging.volumes import make

from dira_scale.archive.outcome import pretraining
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.convert import convert
from dira_scale.shard.survey import survey_and_print


def test_slices_that_are_filled_in_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One of four series lacks a slice, one lacks two and one, one is uneven but whole."""
    locations = [range(18), [*range(5), *range(6, 18)], [*range(5), *range(7, 12), *range(13, 18)], range(18)]
    for number, there in enumerate(locations):
        values, shift = make.smooth((18, 24, 28), number), 0.3 if number == 3 else 0
        make.series(tmp_path / f"images/ct{number}", values[list(there)], SeriesInstanceUID=f"1.2.{number}",
                    StudyInstanceUID=f"1.3.{number}", PatientID=f"P{number}",
                    step=lambda k, there=there, shift=shift: (0, 0, 2 * there[k] + shift * (k > 9)))  # fmt: skip
    config = ingest.recipe("volumes", images=str(tmp_path / "images"), splits={"train": 1.0, "val": 0, "test": 0})
    survey_and_print(config, workers=1, key_file=None, count=1)
    assert "4 slices missing in 2 volumes, to be interpolated" in capsys.readouterr().out
    convert(config, tmp_path / "out", workers=1)
    assert "filled in: 4 slices missing in 2 volumes" in capsys.readouterr().out
    dataset = ShardedDataset.open(tmp_path / "out")
    reported = {
        dataset.voxels(n)[0].tobytes(): dict(row["attributes"]) for n, row in enumerate(dataset.table.to_pylist())
    }
    info = replace(dataset.info, counts={"train": 640, "val": 1})
    assert pretraining(dataset.root, info).endswith(" data.pad=true")  # 18 x 24 x 28 voxels are smaller than a crop
    filled = [reported[make.smooth((18, 24, 28), number)[0].astype(np.int16).tobytes()] for number in range(4)]
    assert filled == [{}, {"filled_slices": "1"}, {"filled_slices": "3"}, {}]
    config["volume"]["irregular"] = "refuse"
    survey_and_print(config, workers=1, key_file=None, count=1)
    assert "4 slices missing in 2 volumes, to be rejected" in capsys.readouterr().out
    convert(config, tmp_path / "refused", workers=1)
    assert "filled in" not in capsys.readouterr().out
    assert ShardedDataset.open(tmp_path / "refused").table.num_rows == 1
