"""``shard plan``: its counts against what was put there, its estimate against a whole conversion."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from archive import ingest

from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.shard.survey import _estimate, survey_and_print


def test_what_is_there_and_what_is_odd_is_counted(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = png_folder / "images"
    shutil.copy(images / "im01.png", images / "im02.png")
    (images / "stray.txt").write_text("text")
    (images / "im05.png").write_bytes(b"")
    (images / "im06.png").unlink()
    (png_folder / "masks" / "m03.png").unlink()
    config = ingest.recipe("folder", **ingest.source_of(png_folder))
    found = survey_and_print(config, workers=2, key_file=None, count=50)
    assert found.kinds == {".png": 24}
    assert found.samples.total() == 23 and found.patients.total() == 8 and set(found.samples) == set(found.patients)
    assert found.rejected == {"named in the CSV, not there": 1}
    assert (found.copies, found.masks, found.absent_masks, found.unknown_patients) == (1, 9, 1, 0)
    assert len(found.trials) == 23  # all of them: fewer than were asked for
    printed = capsys.readouterr().out
    for words in ("1 copy of", "1 of 23 tried (4%) are rejected, decode: the file is empty",
                  "14 without a mask, 9 with one",
                  "from all inputs"):  # fmt: skip
        assert words in printed
    convert(config, tmp_path / "out", workers=1)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    planned = sum(trial.size for trial in found.trials)
    assert 0 <= size - planned <= 3 * 10240  # but for each tar's end


def test_the_interval_holds_what_is_to_be_estimated() -> None:
    """About 95 % of 1,000 draws of 32 among 5,000 values have the true sum in their interval."""
    rng = np.random.default_rng(0)
    values = rng.gamma(4, 25, 5000)
    hits = 0
    for _ in range(1000):
        _, low, high = _estimate(rng.choice(values, 32, replace=False).tolist(), len(values))
        hits += low <= values.sum() <= high
    assert 910 < hits < 980
    assert _estimate(values.tolist(), len(values))[1:] == pytest.approx([values.sum()] * 2)


def test_as_a_user_types_it_nothing_is_written(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["recipe=folder", f"recipe.images={png_folder}/images", "out=out", "slice=1/2", "workers=1", "sample=3"]
    assert main(["plan", *keys]) == 0
    assert "from 3 inputs drawn at random" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert main(["plan", *keys, "sample=none"]) == 2 and "sample=none" in capsys.readouterr().err
