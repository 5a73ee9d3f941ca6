"""Several machines share the shards: each does a slice, a last call joins them."""

from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive import ingest
from archive.conftest import locked

from dira_scale.archive.claim import ShardSlice
from dira_scale.base.errors import UserError
from dira_scale.shard.convert import convert


def test_slices_joined_are_byte_identical_to_one_machine(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (png_folder / "images" / "im05.png").write_bytes(b"")
    config = ingest.recipe("folder", shard_size=3, **ingest.source_of(png_folder))
    convert(config, tmp_path / "one", workers=1)
    out = tmp_path / "shared"
    for number in (3, 1, 3):  # the third is done twice, the second never
        convert(config, out, workers=1, share=f"{number}/3")
        assert not (out / "manifest.parquet").exists()
    printed = capsys.readouterr().out
    assert "slice 3/3 is done" in printed and "still to do by other slices" in printed
    convert(config, out, workers=1)
    assert ingest.contents(out) == ingest.contents(tmp_path / "one")
    assert (tmp_path / "one.rejected.csv").read_bytes() == (tmp_path / "shared.rejected.csv").read_bytes()


def test_every_shard_is_of_one_slice() -> None:
    shards = SimpleNamespace(shards={f"train-{n:06d}.tar": range(0) for n in range(10)})
    for of in (1, 3, 10, 16):
        parts = [ShardSlice(number, of).shards(shards) for number in range(1, of + 1)]  # type: ignore[arg-type]
        assert sorted(chain(*parts)) == list(shards.shards) and max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("share", ["0/3", "4/3", "3", "a/b", "1/", "-1/3", "1/3/5"])
def test_what_is_no_slice_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UserError, match=rf"slice={share}: give K/N"):
        convert({}, tmp_path / "out", workers=1, share=share)


@pytest.mark.parametrize(
    "held, mine, words",
    [
        (".partial/lock", "2/3", "another process is writing out="),
        (".partial/2-of-3/lock", "2/3", "another process is writing slice 2/3 of out="),
        (".partial/2-of-3/lock", "1/3", None),
    ],
)
def test_what_another_process_writes_is_left_to_it(
    png_folder: Path, tmp_path: Path, held: str, mine: str, words: str | None
) -> None:
    out, config = tmp_path / "out", ingest.recipe("folder", **ingest.source_of(png_folder))
    (out / held).parent.mkdir(parents=True)
    with locked(out / held), pytest.raises(UserError, match=words) if words else nullcontext():
        convert(config, out, workers=1, share=mine)
