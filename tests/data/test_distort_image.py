"""A CPU's distortion of one image after another: that of a GPU's batches, whatever the parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from dira_scale.data import views
from dira_scale.data.distort import Distort
from dira_scale.data.distort.image import blur
from dira_scale.data.views import Blur, Jitter, ViewSpec, draw

NEAR = 2e-6  # of sums in another order


def drawn(spec, b, channels=1, seed=0):
    """Images and their parameters."""
    x = torch.rand(b, channels, spec.size, spec.size, generator=torch.Generator().manual_seed(seed))
    return x, draw(spec, seed, 0, np.arange(b), np.zeros(b, int), 0, np.full(b, 99), np.full(b, 99))[1]


def agree(spec, x, params, corrupt=True):
    module = Distort(spec)
    ours, batched = module.one_by_one(x, params, corrupt), module.at_once(x, params, corrupt)
    assert ours.dtype == torch.float32 and ours.shape == x.shape
    torch.testing.assert_close(ours, batched, atol=NEAR, rtol=0)
    return ours


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 64, 224])
def test_a_cpu_and_a_gpu_distort_alike(size, channels):
    spec = ViewSpec(size=size)
    x, params = drawn(spec, 16 if size == 224 else 40, channels)
    assert set(params.branch.tolist()) == {views.CUTOUT, views.INVERSE_CUTOUT, views.SHUFFLE, views.NONE}
    given = x.clone()
    assert (agree(spec, x, params) != agree(spec, x, params, corrupt=False)).any((1, 2, 3)).sum() > len(x) // 4
    assert torch.equal(x, given)


in_order = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)


@settings(max_examples=60)
@given(st.data())
def test_whatever_the_parameters(data):
    """Any probabilities, strengths and widths of blur, up to kernels as wide as the view, and patches over edges."""
    size = data.draw(st.integers(8, 40))
    narrowest, widest = data.draw(in_order)
    cut, cut_or_shuffled = data.draw(in_order)
    shuffle = views.Shuffle(p=(cut_or_shuffled - cut) / 8)
    spec = ViewSpec(
        size=size,
        jitter=Jitter(brightness=data.draw(st.floats(0, 1)), contrast=data.draw(st.floats(0, 1))),
        blur=Blur(sigma=(0.1 + narrowest * 20, 0.1 + widest * 20), p=data.draw(st.sampled_from([0.5, 1.0]))),
        cutout=views.Cutout(p=cut / 8, boxes=data.draw(st.integers(1, 10))),
        inverse_cutout=views.InverseCutout(p=1 - cut_or_shuffled / 8),
        shuffle=shuffle,
        border=data.draw(st.integers(0 if shuffle.p else -30, 10)),
    )
    b = data.draw(st.integers(1, 6))
    x, params = drawn(spec, b, data.draw(st.sampled_from([1, 3])), data.draw(st.integers(0, 2**32)))
    together = agree(spec, x, params, data.draw(st.booleans()))
    assert together.min() >= 0 and together.max() <= 1 + NEAR


def test_an_image_is_the_same_alone_and_in_any_company():
    """Bit for bit."""
    spec = ViewSpec(size=48, rotation=10.0)
    x, params = drawn(spec, 12)
    module = Distort(spec)
    whole = module(x, params)
    for i in range(12):
        assert torch.equal(module(x[i : i + 1], params[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("contiguous", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_of_colours(contiguous):
    spec = ViewSpec(size=32)
    x, params = drawn(spec, 8, channels=3)
    expected = Distort(spec).at_once(x, params, True)
    result = Distort(spec)(x.contiguous(memory_format=contiguous), params)
    assert result.is_contiguous(memory_format=contiguous)
    torch.testing.assert_close(result, expected, atol=NEAR, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 2.0, 9.0])
@pytest.mark.parametrize("reach", [1, 6, 31])
def test_blur_is_scipys_correlation(sigma, reach):
    """Taps that are left out, as of narrow kernels, change nothing; edges are mirrored up to the opposite ones."""
    image = np.random.default_rng(0).random((2, 32, 32), np.float32)
    half = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    half /= 2 * half.sum() - half[0]
    blurred = np.full_like(image, np.nan)
    blur(image, half.astype(np.float32), blurred)
    kernel = np.concatenate((half[:0:-1], half))
    for axis in (1, 2):
        image = ndimage.correlate1d(image.astype(np.float64), kernel, axis, mode="mirror")
    np.testing.assert_allclose(blurred, image, atol=1e-6)


def test_a_gpus_products_are_ieee_whatever_a_run_allows(tf32):
    """tf32 would round pixels; afterwards it is allowed as before."""
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("mm", "bmm", "baddbmm", "addmm"):
                seen.append(torch.backends.cuda.matmul.allow_tf32)
            return func(*args, **(kwargs or {}))

    spec = replace(ViewSpec(size=16), jitter=Jitter(p=0))
    x, params = drawn(spec, 2)
    with Products():
        Distort(spec).at_once(x, params, corrupt=False)
    assert len(seen) >= 3 and not any(seen)
    assert torch.backends.cuda.matmul.allow_tf32
