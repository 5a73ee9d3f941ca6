"""Chunks of blosc2 by a context that is kept, against imagecodecs."""

import imagecodecs
import numpy as np
import pytest

from dira_scale.pixels.chunks import Decoder

VOXELS = np.random.default_rng(0).integers(0, 50, 4096).astype(np.int16)


def test_chunks_one_after_another_and_damage_between_them() -> None:
    chunks = [bytearray(imagecodecs.blosc2_encode(VOXELS + i, typesize=2)) for i in range(3)]
    out = np.empty(VOXELS.nbytes, np.uint8)
    decode = Decoder(out)
    for i, chunk in enumerate(chunks):
        decode(chunk)
        assert out.tobytes() == imagecodecs.blosc2_decode(chunk) == (VOXELS + i).tobytes()
        with pytest.raises(ValueError, match="blosc2's error -"):
            decode(chunk[: len(chunk) // 2])
    with pytest.raises(ValueError, match=f"it has {VOXELS.nbytes // 2} bytes instead of {VOXELS.nbytes}"):
        decode(bytearray(imagecodecs.blosc2_encode(VOXELS[:2048], typesize=2)))
    with pytest.raises(ValueError, match="blosc2's error -"):  # larger than its place
        Decoder(out[:64])(chunks[0])
