"""Rows that are alike, as those of labels are: a few different ones of many."""

import numpy as np


def numbered(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different ``rows`` [n, k], bit by bit, in the order in which they come, and for each of [n] the number
    of its own, int32."""
    import pyarrow as pa  # an order is made where no shards are, hence no pyarrow

    kind, buffer = pa.binary(rows.itemsize * rows.shape[1]), pa.py_buffer(np.ascontiguousarray(rows))
    coded = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, buffer]).dictionary_encode()
    different = np.frombuffer(coded.dictionary.buffers()[1], rows.dtype, len(coded.dictionary) * rows.shape[1])
    return different.reshape(-1, rows.shape[1]), coded.indices.to_numpy()
