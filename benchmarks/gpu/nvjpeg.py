"""How many grey JPEGs a second the GPU decodes, by nvJPEG through torchvision: decoding there that needs no DALI."""

import io

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.clock import seconds

SIDES, BATCH, QUALITY = (512, 1024), 64, 90


def rates(device: torch.device, small: bool) -> dict[str, str]:
    """In words for each side, images/s of decoding batches to the device, or why there is no such figure."""
    found = {}
    for side in (32, 64) if small else SIDES:
        files = [encoded(side, seed) for seed in range(4 if small else BATCH)]
        size, by = sum(map(len, files)) / len(files) / 1e3, "nvJPEG" if device.type == "cuda" else "torchvision"
        try:
            taken = seconds(lambda: decode(files, side, device), device, most=3)  # noqa: B023  # run at once
            said = f"{len(files) / taken:,.0f} images/s (batches of {len(files)}, {size:.0f} kB each)"
        except Exception as error:  # nothing else depends on it
            said = f"not known, {type(error).__name__}: {' '.join(str(error).split('. ')[0].split())[:120]}"
        found[f"{by}, grey JPEGs of {side}²"] = said
    return found


def decode(files: list[torch.Tensor], side: int, device: torch.device) -> None:
    """All of them, on the device.

    Raises:
        ImportError, RuntimeError: torchvision is not there, or was built without nvJPEG.
        ValueError: what came out is no grey image of ``side`` pixels.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    images = decode_jpeg(files, mode=ImageReadMode.GRAY, device=device)
    if wrong := {tuple(image.shape) for image in images} - {(1, side, side)}:
        raise ValueError(f"images of {wrong} instead of {(1, side, side)}")


def encoded(side: int, seed: int) -> torch.Tensor:
    """A JPEG of smooth noise under fine noise, some 1.3 bits a pixel; uint8 on the host."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    pixels = (smooth + random.normal(0, 3, (side, side))).clip(0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=QUALITY)
    return torch.frombuffer(bytearray(target.getvalue()), dtype=torch.uint8)
