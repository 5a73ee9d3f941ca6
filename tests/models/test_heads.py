"""Pooling and heads on feature maps of any number of spatial axes."""

import pytest
import torch

from dira_scale.models.heads import MLP, global_average


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 8, 3, 5), (3, 512, 7, 7)])
def test_maps_are_averaged_bit_for_bit_as_by_their_two_axes(shape, layout):
    """Curves of earlier runs depend on it: another way to average may differ in the last bit."""
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    assert torch.equal(global_average(maps), maps.mean(dim=(2, 3)))


def test_a_head_takes_vectors_images_and_volumes():
    head = MLP(4, 8, 3).eval()
    vectors = torch.randn(5, 4)
    for axes in (0, 2, 3):
        maps = vectors.view(5, 4, *(1,) * axes).expand(5, 4, *(2,) * axes)
        torch.testing.assert_close(head(maps), head(vectors))
