"""A GPU's peak performance by its vendor's data sheet, to compute the share that was reached."""

# Dense TFLOP/s (no sparsity) of IEEE fp32, tf32 and bf16 products, by a part of torch's name of the device; the first
# that fits counts. None: the device has no such unit.
PEAKS: dict[str, tuple[float, float | None, float | None]] = {
    "B200": (75.0, 1100.0, 2250.0),
    "H200": (67.0, 494.5, 989.0),  # and GH200
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100 NVL": (60.0, 417.5, 835.0),
    "H100": (67.0, 494.5, 989.0),
    "A100": (19.5, 156.0, 312.0),
    "A10G": (31.5, 35.0, 70.0),
    "A10": (31.2, 62.5, 125.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71.0),
    "V100": (15.7, None, None),
    "T4": (8.1, None, None),
}
KINDS = ("fp32", "tf32", "bf16")


def peak(device: str, kind: str) -> float | None:
    """TFLOP/s of products of ``kind`` (``fp32``, ``tf32`` or ``bf16``) on ``device``; None where it is not known."""
    for part, figures in PEAKS.items():
        if part in device:
            return figures[KINDS.index(kind)]
    return None
