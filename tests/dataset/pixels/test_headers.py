"""A payload that claims another shape than the manifest's is refused before memory is taken for it."""

import json
import struct
import subprocess
import sys
import zlib

import blosc2
import imagecodecs
import numpy as np
import pytest
from archive.mutants.liars import png_chunk, png_header

from dira_scale.dataset.pixels import codecs, headers

HUGE = 30_000  # pixels a side: 900 MB of a byte each
SMALL = np.zeros((64, 64), np.uint8)


def png() -> bytes:
    """Its rows are there in part; libpng makes room for all of them first."""
    rows = png_chunk(b"IDAT", zlib.compress(bytes(HUGE + 1) * 1000, 9))
    return png_header(codecs.encode(SMALL, "png")[:33], HUGE, HUGE, 8, 0) + rows + png_chunk(b"IEND", b"")


def jpg() -> bytes:
    payload = bytearray(codecs.encode(SMALL, "jpg"))
    struct.pack_into(">HH", payload, payload.index(b"\xff\xc0") + 5, HUGE, HUGE)
    return bytes(payload)


def jp2() -> bytes:
    payload = bytearray(codecs.encode(SMALL, "jp2"))
    for offset in (8, 24):  # the image's and the tile's width and height
        struct.pack_into(">II", payload, offset, HUGE, HUGE)
    return bytes(payload)


def npy() -> bytes:
    return codecs.encode(SMALL, "npy").replace(b"(64, 64), }    ", b"(30000, 30000), }")


def b2nd() -> bytes:
    """8 GB of zeros."""
    return bytes(blosc2.zeros((2000, 4000, 500), np.int16, chunks=(500,) * 3, blocks=(100,) * 3).to_cframe())


BOMBS = {"png": png, "jpg": jpg, "jp2": jp2, "npy": npy, "b2nd": b2nd}
CHILD = """
import json, resource, sys
from pathlib import Path
import blosc2, imagecodecs, simplejpeg
from dira_scale.dataset.pixels import codecs, planes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

found = {}
for file in map(Path, sys.argv[1:]):
    payload, codec, before = file.read_bytes(), file.suffix[1:], peak()
    shape = (64, 64, 64) if codec == "b2nd" else (64, 64)
    for read in (codecs.decode, lambda *a: planes.decode_crops(*a[:2], [(0, 0, 64, 64)], 8, a[2])):
        try:
            read(payload, codec, shape)
        except codecs.DecodeError as error:
            found[codec] = str(error), peak() - before
print(json.dumps(found))
"""


def test_bombs_take_no_memory(tmp_path):
    """In a process of its own, whose peak they would raise by gigabytes."""
    for codec, make in BOMBS.items():
        (tmp_path / f"bomb.{codec}").write_bytes(make())
        assert (tmp_path / f"bomb.{codec}").stat().st_size < 100_000
    files = [str(tmp_path / f"bomb.{codec}") for codec in BOMBS]
    child = subprocess.run([sys.executable, "-c", CHILD, *files], capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found.keys() == set(codecs.CODECS)
    for codec, (message, grown) in found.items():
        claimed = "2000 x 4000 x 500" if codec == "b2nd" else "30000 x 30000"
        assert f"its header says {claimed} pixels, expected 64 x 64" in message
        assert grown < 16, f"{codec}: {grown} MiB"


STORED = [(codec, shape, dtype) for codec in ("png", "jpg", "jp2", "npy") for shape in ((37, 53), (37, 53, 3))
          for dtype in (np.uint8, np.uint16) if (codec, dtype) != ("jpg", np.uint16)]  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "shape", "dtype"), [*STORED, ("b2nd", (37, 53, 4), np.int16), ("b2nd", (2, 37, 53, 4), np.int16)]
)
def test_headers_say_what_was_stored(codec, shape, dtype):
    payload = codecs.encode(np.zeros(shape, dtype), codec)
    assert codecs.decode(payload, codec, shape).shape == shape
    assert codec == "b2nd" or headers.SHAPES[codec](payload) == shape
    for other in ((53, 37), (37, 53, 5), (37,), (36, 53)):
        with pytest.raises(codecs.DecodeError, match=r"its header says .*37 x 53( x \d)? pixels, expected"):
            codecs.decode(payload, codec, other)


def test_many_tiles_are_refused():
    """32,768 tiles in 1.4 kB, of an image of the right size, took 1.6 GB."""
    payload = bytearray(imagecodecs.htj2k_encode(np.zeros((1024, 1024), np.uint8)))
    for width, height in ((4, 8), (1024, 8), (4, 1024)):
        struct.pack_into(">II", payload, 24, width, height)
        with pytest.raises(codecs.DecodeError, match=f"tiles of {height} x {width} pixels: expected one tile"):
            codecs.decode(bytes(payload), "jp2")


@pytest.mark.parametrize("codec", sorted(BOMBS))
@pytest.mark.parametrize("cut", [0, 1, 20, 33, 42])
def test_a_header_cut_short_is_a_decode_error(codec, cut):
    payload = codecs.encode(SMALL[None] if codec == "b2nd" else SMALL, codec)
    with pytest.raises(codecs.DecodeError):
        codecs.decode(payload[:cut], codec, (64, 64))
