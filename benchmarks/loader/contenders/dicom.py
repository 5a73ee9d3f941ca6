"""Single DICOM files, read by the code that shards them: what training without shards costs."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from benchmarks.loader.contenders.base import Contender
from benchmarks.loader.contenders.ours import on_threads
from benchmarks.loader.inputs import VIEWS, LoaderInputs
from dira_scale.errors import UserError
from dira_scale.imaging.read import read_image
from dira_scale.phantom.dicom import encoded, uid
from dira_scale.pixels import codecs
from dira_scale.pixels.planes import resize


def dicom(inputs: LoaderInputs) -> list[Contender]:
    """Our crops of uncompressed single files, and pydicom's decoding of them alone.

    Beside PNG of 16 bits only, whose pixels they have.
    """
    if (inputs.case.codec, inputs.case.bits) != ("png", 16):
        raise UserError("they are measured beside PNG of 16 bits")
    files = [path.with_suffix(".dcm") for path in inputs.files]
    for path, payload in zip(files, inputs.payloads(), strict=True):
        path.write_bytes(encoded(_dataset(codecs.decode(payload, "png"), path.name), ExplicitVRLittleEndian))
    alone = on_threads(partial(_decode, [path.read_bytes() for path in files]), inputs)
    return [
        Contender("DICOM files", "others", partial(_crops, inputs, files)),
        Contender("limit: DICOM", "limit", alone, reads=False),
    ]


def _dataset(pixels: np.ndarray, name: str) -> Dataset:
    """Only what describes the pixels."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, uid(name, "image")
    ds.Modality, ds.PatientID = "OT", ""
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, *pixels.shape
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.tobytes()
    return ds


def _crops(inputs: LoaderInputs, files: Sequence[Path], batches: int) -> Iterator[Sequence[np.ndarray]]:
    """Whole batches, each by one thread."""

    def make(number: int) -> Sequence[np.ndarray]:
        views = np.empty((2, inputs.batch, 1, VIEWS.sides[0], VIEWS.sides[0]), np.uint16)
        for i, position in enumerate(range(number * inputs.batch, (number + 1) * inputs.batch)):
            position %= len(inputs.boxes)
            pixels = read_image(files[position % len(files)], 16, burned_in="keep").pixels
            for view, (box, flip) in enumerate(zip(inputs.boxes[position], inputs.flips[position], strict=True)):
                resize(pixels, tuple(box.tolist()), VIEWS.sides[0], (False, bool(flip)), views[view, i])
        return list(views)

    with ThreadPoolExecutor(inputs.workers) as pool:
        yield from pool.map(make, range(batches))


def _decode(contents: Sequence[bytes], position: int) -> None:
    _ = pydicom.dcmread(io.BytesIO(contents[position % len(contents)])).pixel_array
