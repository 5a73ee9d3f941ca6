"""Bytes and FLOPs of single operations."""

import torch

from dira_scale.fleet.forecast.work import work_of


def test_cudnns_norm_moves_what_torchs_does() -> None:
    """Its arguments have other names; tensors without memory never call it."""
    x, weight = torch.empty(4, 8, 6, 6, device="meta"), torch.empty(8, device="meta")
    stats = weight, weight, weight, weight
    aten, out = torch.ops.aten, (x, weight, weight)
    native = work_of(aten.native_batch_norm_backward.default, (x, x, weight, *stats, True, 1e-5, [True] * 3), {}, out)
    cudnns = work_of(aten.cudnn_batch_norm_backward.default, (x, x, weight, *stats, 1e-5, weight[:0]), {}, out)
    assert cudnns == native and native.norms > 0
