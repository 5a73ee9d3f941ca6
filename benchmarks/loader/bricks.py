"""Stored forms of volumes: size on disk and crops per second of a core, for brick sizes, codecs and filters.

    python -m benchmarks.loader.bricks CT.nii.gz …

Crops are cut from a file by the code that the loaders use (``pixels.bricks``), their checksums included. Warm: of
processor time, so that other work on the machine counts little. Cold: of wall time, for six crops, each after its file
was dropped from the page cache.
"""

import argparse
import os
import tempfile
from pathlib import Path
from time import perf_counter, thread_time
from unittest.mock import patch

import blosc2
import nibabel
import numpy as np

from dira_scale.pixels import bricks

CROPS = [(32, 64, 64), (96, 96, 96), (128, 128, 128)]
BRICKS = [(16,) * 3, (24,) * 3, (16, 32, 32), (32,) * 3, (48,) * 3, (64,) * 3]
FORMS = {
    f"{codec.name.lower()} {level}, {filter_.name.lower()}": (codec, level, filter_)
    for codec, level in [(blosc2.Codec.ZSTD, 1), (blosc2.Codec.ZSTD, 3), (blosc2.Codec.ZSTD, 5),
                         (blosc2.Codec.LZ4, 5), (blosc2.Codec.LZ4HC, 5)]
    for filter_ in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE)
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volumes", nargs="+", type=Path, help="CT in whole Hounsfield units, .nii.gz")
    parser.add_argument("--seconds", type=float, default=0.25, help="of processor time for each figure")
    arguments = parser.parse_args()
    volumes = [np.asarray(nibabel.load(path).dataobj).astype(np.int16).T.copy() for path in arguments.volumes]
    original = sum(path.stat().st_size for path in arguments.volumes)
    print("brick | form | of .nii.gz | " + " | ".join("×".join(map(str, c)) + " /s, kB, cold /s" for c in CROPS))
    default = "lz4hc 5, shuffle"
    for brick in BRICKS:
        for name in FORMS if brick == bricks.BRICK else [default, "zstd 3, shuffle"]:
            row(brick, name, volumes, original, arguments.seconds)


def row(brick: tuple[int, ...], name: str, volumes: list[np.ndarray], original: int, seconds: float) -> None:
    codec, level, filter_ = FORMS[name]

    class Parameters(blosc2.CParams):  # in place of those that ``encode`` asks for
        def __init__(self, **_: object) -> None:
            super().__init__(codec=codec, clevel=level, filters=[filter_], filters_meta=[0], nthreads=1)

    with (
        patch.object(bricks, "BRICK", brick),
        patch.object(blosc2, "CParams", Parameters),
        tempfile.TemporaryDirectory() as folder,
    ):
        paths, total = [], 0
        for number, voxels in enumerate(volumes):
            payload = bricks.encode(voxels)
            total += len(payload)
            paths.append(Path(folder) / str(number))
            paths[-1].write_bytes(payload)
        results = [crops(paths, volumes, size, seconds) for size in CROPS]
    print(f"{brick} | {name} | {total / original:.2f} | " + " | ".join(results), flush=True)


def crops(paths: list[Path], volumes: list[np.ndarray], size: tuple[int, ...], seconds: float) -> str:
    generator, read = np.random.default_rng(0), 0
    large = [i for i, v in enumerate(volumes) if all(n >= s for n, s in zip(v.shape, size, strict=True))]
    if not large:
        return "no volume is as large"

    def cut(i: int, check: bool = False) -> None:
        nonlocal read
        low = [int(generator.integers(0, n - s + 1)) for n, s in zip(volumes[i].shape, size, strict=True)]
        part = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
        descriptor = files[i]

        def fetch(start: int, buffer: memoryview) -> None:
            nonlocal read
            read += os.preadv(descriptor, [buffer], start)

        array = bricks.Bricks(volumes[i].shape, np.dtype(np.int16), paths[i].stat().st_size, fetch).cut([part])[0][0]
        if check:
            assert np.array_equal(array, volumes[i][part])

    files = {i: os.open(paths[i], os.O_RDONLY) for i in large}
    try:
        for i in large:
            cut(i, check=True)
        read, began, count = 0, thread_time(), 0
        while thread_time() - began < seconds:
            cut(large[count % len(large)])
            count += 1
        warm, each = count / (thread_time() - began), read / count
        cold = 0.0
        for k in range(6):
            i = large[k % len(large)]
            os.fsync(files[i])
            os.posix_fadvise(files[i], 0, 0, os.POSIX_FADV_DONTNEED)
            began = perf_counter()
            cut(i)
            cold += perf_counter() - began
        return f"{warm:.0f}, {each / 1e3:.0f}, {6 / cold:.0f}"
    finally:
        for descriptor in files.values():
            os.close(descriptor)


if __name__ == "__main__":
    main()
