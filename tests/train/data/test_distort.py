"""The distortions of both kinds of devices against the same written slowly, one sample and one pixel rule at a time."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional
from train.data.volumes import spec as volume_spec

from dira_scale.train.data import views
from dira_scale.train.data.distort import Distort, DistortVolumes, build, build_batched
from dira_scale.train.data.distort.corruptions import Elastic, GaussianBlur
from dira_scale.train.data.distort.plane import rotate, rotate_mask
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.views import Blur, Cutout, InverseCutout, Jitter, Shuffle, ViewSpec, Warp, draw

SPEC = ViewSpec(size=48)
NEAR = 2e-6  # the largest difference between sums in another order


@pytest.fixture(params=["one_by_one", "at_once"])
def way(request, monkeypatch):
    """A CPU's, then a GPU's."""
    monkeypatch.setattr(Distort, "one_by_one", getattr(Distort, request.param))


both_ways = pytest.mark.usefixtures("way")


def images(b=24, channels=1, size=48, seed=0):
    return torch.rand(b, channels, size, size, generator=torch.Generator().manual_seed(seed))


def parameters(b=24, spec=SPEC, seed=0):
    return draw(spec, seed, 0, np.arange(b), np.zeros(b, int), 0, *spec.dimensions * [np.full(b, 99)])[1]


def only(branch, b=24, **more):
    """Without jitter and blur, and samples of one branch only."""
    p = {name: float(name == branch) for name in ("cutout", "inverse_cutout", "shuffle")}
    cutout = views.Cutout(**{"p": p["cutout"]} | more.pop("cutout", {}))
    spec = ViewSpec(
        size=48, jitter=Jitter(p=0), blur=Blur(p=0), cutout=cutout, shuffle=views.Shuffle(p=p["shuffle"]),
        inverse_cutout=views.InverseCutout(p=p["inverse_cutout"]), **more,
    )  # fmt: skip
    return spec, parameters(b, spec)


def slow_corruption(image, params, i):
    """One sample [C, S, S] by assignment to slices; what lies beyond the edge is cut off there."""
    original, result = image.copy(), image.copy()
    if params.branch[i] == views.INVERSE_CUTOUT:
        result[:] = 0
    for y, x, h, w in params.boxes[i, : params.n_boxes[i]].tolist():
        rows, columns = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
        result[:, rows, columns] = 0 if params.branch[i] == views.CUTOUT else original[:, rows, columns]
    if params.branch[i] == views.SHUFFLE:
        for h, w, y1, x1, y2, x2 in params.swaps[i].tolist():
            result[:, y1 : y1 + h, x1 : x1 + w] = original[:, y2 : y2 + h, x2 : x2 + w]
            result[:, y2 : y2 + h, x2 : x2 + w] = original[:, y1 : y1 + h, x1 : x1 + w]
    return result


BEYOND = {"border": -16, "cutout": {"boxes": 3, "side": (32, 32), "stop": 0.0}}  # over the edges


@both_ways
@pytest.mark.parametrize(
    ("branch", "more"), [("cutout", {}), ("cutout", BEYOND), ("inverse_cutout", {}), ("shuffle", {}), ("none", {})]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_corruption_equals_the_slow_one(branch, more, channels):
    spec, params = only(branch, **dict(more))
    assert (params.boxes < 0).any() == bool(more)
    x = images(channels=channels)
    result = Distort(spec)(x, params).numpy()
    for i in range(len(x)):
        np.testing.assert_array_equal(result[i], slow_corruption(x[i].numpy(), params, i))
    changed = (result != x.numpy()).mean()
    assert changed == 0 if branch == "none" else changed > 0.03


@both_ways
def test_swaps_that_overlap_read_the_original_and_the_last_write_stays():
    """Heavily overlapping swaps, also with themselves: order matters and nothing compounds."""
    rng = np.random.default_rng(0)
    side, location = rng.integers(10, 30, (24, 10, 2)), rng.integers(0, 18, (24, 10, 4))
    params = only("shuffle")[1]
    params.swaps.copy_(torch.from_numpy(np.concatenate((side, location), -1)))
    x = images()
    result = Distort(SPEC)(x, params).numpy()
    for i in range(len(x)):
        np.testing.assert_array_equal(result[i], slow_corruption(x[i].numpy(), params, i))


def plain_jitter(image, params, i):
    """torchvision's operations, in the sample's order."""
    steps = [
        lambda y: functional.adjust_brightness(y, float(params.brightness[i])),
        lambda y: functional.adjust_contrast(y, float(params.contrast[i])),
    ]
    for step in reversed(steps) if params.contrast_first[i] else steps:
        image = step(image)
    return image


@both_ways
@pytest.mark.parametrize(("rotation", "near"), [(0.0, 1e-5), (30.0, 1e-4)])
def test_the_whole_pipeline_in_order(rotation, near):
    """Rotation, jitter, blur, corruption, whose squares stay upright, one sample at a time."""
    spec = replace(SPEC, rotation=rotation)
    params, x, module = parameters(spec=spec), images(), Distort(spec)
    result = module(x, params).numpy()
    for i in range(len(x)):
        turned = functional.rotate(x[i], float(params.rotation[i]), functional.InterpolationMode.BILINEAR)
        image, sigma = plain_jitter(turned, params, i).numpy(), float(params.sigma[i])
        if sigma:
            image = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="mirror", radius=len(module.blur_taps) - 1)
        np.testing.assert_allclose(result[i], slow_corruption(image, params, i), atol=near)


@pytest.mark.parametrize("size", [48, 49])
def test_rotation_is_torchvisions(size):
    """Bilinear, zero beyond the edges; angles are anticlockwise."""
    x, degrees = (
        images(9, channels=2, size=size),
        torch.tensor([0.0, 3.0, -3.0, 10.0, -10.0, 37.5, 90.0, -135.0, 180.0]),
    )
    result = rotate(x, degrees)
    for i in range(9):
        bilinear = functional.InterpolationMode.BILINEAR
        expected = functional.rotate(x[i], float(degrees[i]), interpolation=bilinear)
        torch.testing.assert_close(result[i], expected, atol=2e-5, rtol=0)


def test_rotation_is_as_exact_under_autocast():
    """The restoration's targets are rotated there, the inputs are not."""
    x, degrees = images(6, size=224), torch.linspace(-10, 10, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = rotate(x, degrees)
    assert inside.dtype == torch.float32 and torch.equal(inside, rotate(x, degrees))


@both_ways
@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_type_and_gradients(channels):
    params, module = parameters(), Distort(SPEC)
    x = images(channels=channels).contiguous(memory_format=torch.channels_last).requires_grad_()
    before = x.detach().clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(x, params)
    assert result.is_contiguous(memory_format=torch.channels_last) and result.dtype == torch.float32
    assert not result.requires_grad and torch.equal(x.detach(), before)
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1 + 1e-6
    torch.testing.assert_close(result, module(x.detach().contiguous(), params), atol=1e-6, rtol=0)
    assert not module.state_dict()


@pytest.mark.parametrize("seed", range(60))  # hypothesis is not among what gpu-check needs
def test_a_cpu_and_a_gpu_distort_alike_whatever_the_parameters(seed):
    """Any probabilities, strengths and widths of blur, up to kernels as wide as the view, and patches over edges."""
    dice = random.Random(seed)
    size = dice.randint(8, 40)
    narrowest, widest = sorted(dice.choices(range(9), k=2))
    cut, cut_or_shuffled = sorted(dice.choices(range(9), k=2))
    shuffle = views.Shuffle(p=(cut_or_shuffled - cut) / 8)
    spec = ViewSpec(
        size=size,
        jitter=Jitter(brightness=dice.random(), contrast=dice.random()),
        blur=Blur(sigma=(0.1 + narrowest * 20, 0.1 + widest * 20), p=dice.choice([0.5, 1.0])),
        cutout=views.Cutout(p=cut / 8, boxes=dice.randint(1, 10)),
        inverse_cutout=views.InverseCutout(p=1 - cut_or_shuffled / 8),
        shuffle=shuffle,
        border=dice.randint(0 if shuffle.p else -30, 10),
    )
    b = dice.randint(1, 6)
    channels = dice.choice([1, 3])
    x, params = images(b, channels, size, seed), parameters(b, spec, seed)
    module, corrupt = Distort(spec), dice.choice([True, False])
    one_by_one, at_once = module.one_by_one(x, params, corrupt), module.at_once(x, params, corrupt)
    torch.testing.assert_close(one_by_one, at_once, atol=NEAR, rtol=0)
    assert one_by_one.min() >= 0 and one_by_one.max() <= 1 + NEAR


def test_an_image_is_the_same_alone_and_in_any_company():
    """Bit for bit."""
    spec = ViewSpec(size=48, rotation=10.0)
    x, params = images(12), parameters(12, spec)
    module = Distort(spec)
    whole = module(x, params)
    for i in range(12):
        assert torch.equal(module(x[i : i + 1], params[i : i + 1])[0], whole[i])


VOLUMES = ViewSpec(
    size=(8, 16, 16), blur=Blur(p=0), cutout=Cutout(p=0), inverse_cutout=InverseCutout(p=0), shuffle=Shuffle(p=0),
    corruptions={"blur": GaussianBlur(), "elastic": Elastic(alpha=60.0, sigma=2.0)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "least"),
    [(replace(ViewSpec(size=16), jitter=Jitter(p=0)), 3), (ViewSpec(size=16, warp=Warp(p=1.0)), 5), (VOLUMES, 6)],
)
def test_a_gpus_products_are_ieee_whatever_a_run_allows(tf32, spec, least):
    """tf32 would round pixels; afterwards it is allowed as before."""
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("mm", "bmm", "baddbmm", "addmm"):
                seen.append(torch.backends.cuda.matmul.allow_tf32 or args[0].dtype != torch.float32)
            return func(*args, **(kwargs or {}))

    params, module = parameters(2, spec), build_batched(spec)
    x = torch.rand(2, 1, *spec.sides)
    with Products(), torch.autocast("cpu", torch.bfloat16):
        module(x, params)
        module.turned_mask((x[:, 0] > 0.5).long(), params)
    assert len(seen) >= least and not any(seen)
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.gpu
@pytest.mark.parametrize("rotation", [0.0, 10.0])
def test_the_gpu_gives_the_same(rotation, tf32):
    spec = replace(SPEC, rotation=rotation)
    params, x, module = parameters(spec=spec), images(), Distort(spec)
    on_gpu, x_there, params_there = Distort(spec).cuda(), x.cuda(), params.to("cuda")
    torch.cuda.set_sync_debug_mode("error")  # it must not wait for the device
    try:
        result = on_gpu(x_there, params_there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.cpu(), module(x, params), atol=1e-5, rtol=0)


ODD = 31
DEGREES = torch.tensor([0.0, 90.0, 180.0, -90.0, 10.0, -7.5, 33.0, 137.0])


def bright(images: torch.Tensor) -> torch.Tensor:
    """The masks [b, S, S] of images [b, 1, S, S]."""
    return (images[:, 0] > 0.5).to(torch.int16)


def waves(count: int, size: int = ODD) -> torch.Tensor:
    """Smooth patterns without any symmetry, [b, 1, S, S], that change by at most 0.12 from a pixel to the next."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([0.5 + 0.5 * torch.sin(0.17 * rows + 0.16 * columns + i)[None] for i in range(count)])


def plainly_rotated(mask: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """By a loop over pixels, in float64; and where a source pixel's centre is clearly nearer than the next one."""
    size, angle = len(mask), np.deg2rad(degrees)
    turned, clear = np.full_like(mask, IGNORE), np.zeros(mask.shape, bool)
    middle = (size - 1) / 2
    for row, column in np.ndindex(mask.shape):
        up, right = middle - row, column - middle  # anticlockwise: the source lies clockwise of it
        from_right = np.cos(angle) * right + np.sin(angle) * up
        from_up = -np.sin(angle) * right + np.cos(angle) * up
        y, x = middle - from_up, middle + from_right
        nearest = round(y), round(x)
        clear[row, column] = max(abs(y - nearest[0]), abs(x - nearest[1])) < 0.499
        if min(nearest) >= 0 and max(nearest) < size:
            turned[row, column] = mask[nearest]
    return turned, clear


def test_a_rotated_mask_takes_the_nearest_pixel_and_nothing_from_beyond() -> None:
    masks = torch.randint(0, 256, (len(DEGREES), ODD, ODD), dtype=torch.int16)
    for mask, turned, degrees in zip(masks.numpy(), rotate_mask(masks, DEGREES).numpy(), DEGREES.tolist(), strict=True):
        expected, clear = plainly_rotated(mask, degrees)
        assert clear.mean() > 0.98
        np.testing.assert_array_equal(turned[clear], expected[clear])
        assert (turned == IGNORE).any() == (degrees % 90 != 0)


def test_masks_of_distorted_views_are_turned_as_the_views() -> None:
    """By the angles that were drawn; views that are not rotated leave them as they are."""
    spec = ViewSpec(size=ODD, rotation=30.0)
    index = np.arange(6)
    _, params = draw(spec, 0, 0, index, np.zeros(6, int), 0, np.full(6, 40), np.full(6, 40))
    images = waves(6)
    distort = build(spec)
    masks = distort.turned_mask(bright(images), params)
    assert masks.dtype == torch.int16 and torch.equal(masks, rotate_mask(bright(images), params.rotation))
    sure = (distort.turned(images, params)[:, 0] - 0.5).abs() > 0.12
    sure &= distort.turned(torch.ones_like(images), params)[:, 0] > 0.999
    assert torch.equal(masks[sure], bright(distort.turned(images, params))[sure])
    assert build(ViewSpec(size=ODD)).turned_mask(masks, params) is masks
    volumes = torch.zeros(6, 8, 8, 8, dtype=torch.int16)
    assert DistortVolumes(volume_spec(8, 8, 8)).turned_mask(volumes, params) is volumes
