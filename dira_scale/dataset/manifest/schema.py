"""Names and columns of a dataset's files."""

from collections.abc import Sequence

import pyarrow as pa

FORMAT_VERSION = 3
CHANNELS_VERSION = 4  # of datasets whose samples have several channels, each with a range of its own
INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE = "dataset.json", "manifest.parquet", "quarantine.parquet"
INDEX_FILE = "manifest.index"

BOX = pa.struct([("label", pa.string()), *[(side, pa.float32()) for side in "yxhwzd"]])  # in 2D z = 0, d = 1
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # keyed hash of the source's name
        ("split", pa.string()),
        ("patient", pa.string()),  # keyed hash; all samples of a patient are in one split (unless lists decide)
        ("study", pa.string()),  # keyed hash
        ("shard", pa.string()),  # file name
        ("offset", pa.int64()),  # of the payload's first byte in the shard
        ("size", pa.int64()),  # bytes
        ("codec", pa.string()),  # 2D: png | jpg | jp2 | npy; 3D: b2nd | npy
        ("channels", pa.int8()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("depth", pa.int32()),  # 1 in 2D
        ("bits", pa.int8()),  # per stored channel: 8 | 16
        ("low", pa.float32()),  # the stored values that become 0 and 1
        ("high", pa.float32()),
        ("spacing", pa.list_(pa.float32())),  # mm in array order: y, x in 2D; z, y, x in 3D; null = unknown
        ("affine", pa.list_(pa.float32())),  # 3D: NIfTI's, 4 x 4 row by row: (x, y, z) index -> RAS+ mm; null in 2D
        ("labels", pa.list_(pa.float32())),  # in the order of label_names; NaN = unknown
        ("boxes", pa.list_(BOX)),  # in stored pixels or voxels
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("mask_offset", pa.int64()),  # null = no mask
        ("mask_size", pa.int64()),
        ("xxh3", pa.string()),  # 64-bit xxHash3 of the payload, hex
    ]
)
# Of several channels ``low`` and ``high`` are lists; NaN = a channel that the sample lacks, which is stored as 0.
RANGES = pa.list_(pa.float32())
SCHEMA_OF_CHANNELS = pa.schema(
    [field.with_type(RANGES) if field.name in ("low", "high") else field for field in SCHEMA]
)


def schema_of(channels: Sequence[str]) -> pa.Schema:
    """Return the columns of a dataset with these names of channels; without any each sample has one range."""
    return SCHEMA_OF_CHANNELS if channels else SCHEMA


SLICE, POSITION = "slice", "position"  # attributes of a slice: its place in its volume
# ``source`` is a keyed hash too: file names may contain patients' names.
QUARANTINE = pa.schema([("source", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
