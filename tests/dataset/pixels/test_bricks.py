"""Volumes in bricks: parts are those of the array, each brick is read once, and damage is never used."""

import math
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import blosc2
import numpy as np
import pytest
import xxhash

from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels import bricks, codecs, frames
from dira_scale.dataset.pixels.bricks import TABLE, BrickError, Bricks

GENERATOR = np.random.default_rng(0)
VOLUMES = [((40, 70, 50), np.int16), ((2, 20, 33, 40), np.int16), ((5, 7, 9), np.int16), ((48, 64, 64), np.uint8)]


def random_volume(shape: Sequence[int], dtype: type) -> np.ndarray:
    """With whole bricks of one value, as air is."""
    voxels = GENERATOR.integers(-2000, 3000, shape).astype(dtype)
    voxels[..., :16, :32, :32] = 7
    voxels[..., -16:, :, :] = 0
    return voxels


def opened(payload: bytes, shape: tuple[int, ...], dtype: type, log: list[tuple[int, int]] | None = None) -> Bricks:
    def fetch(start: int, buffer: memoryview) -> None:
        if log is not None:
            log.append((start, len(buffer)))
        buffer[:] = memoryview(payload)[start : start + len(buffer)]

    return Bricks(shape, np.dtype(dtype), len(payload), fetch)


def random_part(sides: Sequence[int]) -> tuple[slice, ...]:
    first = [int(GENERATOR.integers(0, n)) for n in sides]
    return tuple(slice(i, int(GENERATOR.integers(i + 1, n + 1))) for i, n in zip(first, sides, strict=True))


@pytest.mark.parametrize(("shape", "dtype"), VOLUMES)
def test_parts_are_those_of_the_array(shape: tuple[int, ...], dtype: type) -> None:
    voxels = random_volume(shape, dtype)
    payload = codecs.encode(voxels, "b2nd")
    assert codecs.encode(np.asfortranarray(voxels), "b2nd") == payload
    np.testing.assert_array_equal(codecs.decode(payload, "b2nd", shape), voxels)
    for _ in range(30):
        parts = [random_part(shape[-3:]) for _ in range(GENERATOR.integers(1, 4))]
        for part, cut in zip(parts, opened(payload, shape, dtype).cut(parts), strict=True):
            np.testing.assert_array_equal(cut, voxels.reshape(-1, *shape[-3:])[:, *part])


def test_a_frame_is_what_blosc2_writes() -> None:
    """Header and trailer, byte by byte; blosc2's index says that all bricks are zeros, ours is one that it reads."""
    for dtype, grid, brick in ((np.int16, (7, 4, 4), (16, 32, 32)), (np.uint8, (2, 3, 1), (5, 7, 9))):
        sides = [n * side for n, side in zip(grid, brick, strict=True)]
        coded = blosc2.CParams(
            codec=blosc2.Codec.LZ4HC, clevel=5, filters=[blosc2.Filter.SHUFFLE], filters_meta=[0], nthreads=1
        )
        frame = blosc2.zeros(sides, dtype, chunks=brick, blocks=brick, contiguous=True, cparams=coded).to_cframe()
        header, (whole, encoded) = bytearray(frames._header(grid, brick, np.dtype(dtype))), frames.SIZES
        header[whole : whole + 8], header[encoded : encoded + 8] = len(frame).to_bytes(8), bytes(8)
        assert header == frame[: frames.HEADER]
        assert frame.endswith(frames.TRAILER)
        offsets = np.arange(math.prod(grid), dtype=np.int64)
        assert blosc2.decompress2(frames._index_header(offsets.size) + offsets.tobytes()) == offsets.tobytes()


def test_a_missing_c_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("blosc2", None, origin=f"{tmp_path}/blosc2.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(frames, "find_library", lambda name: None)
    with pytest.raises(UserError, match=f"{tmp_path} has no lib/libblosc2, nor has the system; volumes are decoded"):
        frames._library.__wrapped__()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libblosc2.so").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"lib/libblosc2.so cannot be used .*install blosc2's wheel"):
        frames._library.__wrapped__()


@pytest.mark.parametrize(
    ("field", "value"), [("offset", 2**63 - 1), ("offset", 2**64 - 8), ("size", 2**32 - 1), ("size", 17_000)]
)
def test_a_row_that_cannot_be_is_refused_before_anything_is_read(field: str, value: int) -> None:
    payload = codecs.encode(random_volume((20, 40, 40), np.uint8), "b2nd")
    table = np.frombuffer(payload, TABLE, 8, len(payload) - 8 * TABLE.itemsize).copy()
    table[0][field] = value
    log: list[tuple[int, int]] = []
    spoilt = payload[: -8 * TABLE.itemsize] + table.tobytes()
    with pytest.raises(BrickError, match="brick 0: its row of the table is damaged"):
        opened(spoilt, (20, 40, 40), np.uint8, log).cut([(slice(0, 9),) * 3])
    assert len(log) == 1


def test_a_chunk_that_cannot_be_decoded_is_refused() -> None:
    """Its checksum is right: whoever wrote it wrote nonsense."""
    payload = bytearray(codecs.encode(GENERATOR.integers(0, 9, (16, 32, 32)).astype(np.int16), "b2nd"))
    table = np.frombuffer(payload, TABLE, 1, len(payload) - TABLE.itemsize).copy()
    start, size = int(table[0]["offset"]), int(table[0]["size"])
    payload[start + 32 : start + 36] = b"\xff\xff\xff\x7f"  # where its only block begins
    table["xxh3"] = xxhash.xxh3_64_intdigest(payload[start : start + size], 0)
    payload[-TABLE.itemsize :] = table.tobytes()
    with pytest.raises(BrickError, match="bricks 0 to 0: libblosc2 cannot decode them"):
        opened(bytes(payload), (16, 32, 32), np.int16).cut([(slice(0, 9),) * 3])


def test_only_the_bricks_of_the_parts_are_read_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two overlapping parts of 18 and 12 bricks, 8 of them common; neighbours come in one read."""
    monkeypatch.setattr(bricks, "BRICK", (4, 4, 4))
    voxels = GENERATOR.integers(-2000, 3000, (40, 40, 40)).astype(np.int16)
    payload = codecs.encode(voxels, "b2nd")
    log: list[tuple[int, int]] = []
    first, second = (slice(4, 12), slice(4, 16), slice(4, 16)), (slice(8, 16), slice(8, 16), slice(5, 11))
    opened(payload, voxels.shape, np.int16, log).cut([first, second])
    table, *runs = log
    rows = np.frombuffer(payload, TABLE, 1000, len(payload) - 1000 * TABLE.itemsize)
    needed = {(z, y, x) for z in (1, 2) for y in (1, 2, 3) for x in (1, 2, 3)}
    needed |= {(z, y, x) for z in (2, 3) for y in (2, 3) for x in (1, 2)}
    assert sum(count for _, count in runs) == sum(int(rows[z * 100 + y * 10 + x]["size"]) for z, y, x in needed)
    assert len(runs) == len({(z, y) for z, y, _ in needed})
    assert table[1] < 1000 * TABLE.itemsize


def test_no_flipped_bit_is_used() -> None:
    """Anywhere in a payload: parts that need it are refused by the brick's number, all others are as they were."""
    voxels = random_volume((20, 40, 40), np.int16)
    payload = codecs.encode(voxels, "b2nd")
    whole = tuple(slice(0, n) for n in voxels.shape)
    parts = [(slice(0, 16), slice(0, 32), slice(0, 32)), (slice(16, 20), slice(32, 40), slice(32, 40))]
    table = len(payload) - 8 * TABLE.itemsize
    locations = [*GENERATOR.integers(0, table, 300).tolist(), *range(table, len(payload))]
    refused = 0
    for location in locations:
        spoilt = bytearray(payload)
        spoilt[location] ^= 1 << int(GENERATOR.integers(8))
        for part in (whole, *parts):
            try:
                cut = opened(bytes(spoilt), voxels.shape, np.int16).cut([part])[0][0]
            except BrickError as error:
                refused += 1
                assert "brick" in str(error)
            else:
                np.testing.assert_array_equal(cut, voxels[part])
    assert refused > 300
    rows = np.frombuffer(payload, TABLE, 8, table).copy()
    rows[[1, 2]] = rows[[2, 1]]  # two bricks that have changed places
    with pytest.raises(BrickError, match="brick 1: its checksum differs"):
        opened(payload[:table] + rows.tobytes(), voxels.shape, np.int16).cut([whole])


def test_a_payload_that_was_cut_short_is_refused() -> None:
    payload = codecs.encode(random_volume((20, 40, 40), np.int16), "b2nd")
    with pytest.raises(BrickError):
        opened(payload[:100], (20, 40, 40), np.int16).cut([(slice(0, 9),) * 3])
    with pytest.raises(BrickError):
        opened(payload[:-20], (20, 40, 40), np.int16).cut([(slice(0, 9),) * 3])
    with pytest.raises(codecs.DecodeError, match="frame"):
        codecs.decode(payload[:3000], "b2nd")


def test_bricks_of_another_type_are_refused() -> None:
    """As of bytes, where the manifest promises int16."""
    payload = codecs.encode(GENERATOR.integers(0, 200, (20, 40, 40)).astype(np.uint8), "b2nd")
    with pytest.raises(BrickError, match="brick 0: it has 16384 bytes instead of 32768"):
        opened(payload, (20, 40, 40), np.int16).cut([(slice(0, 9),) * 3])
