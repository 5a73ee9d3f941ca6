"""A radiograph as a DICOM file: Digital X-Ray Image Storage - For Presentation (PS3.3 A.26), 12 bits in 16."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dira_scale.phantom.cxr.view import View
from dira_scale.phantom.dicom import SYNTAX_SHARE, SYNTAXES, Identity, encoded, patient_and_study

INVERTED_SHARE = 0.2


def write(
    pixels: np.ndarray,
    view: View,
    identity: Identity,
    age: int,
    study: int,
    key: str,
    rng: np.random.Generator,
) -> bytes:
    """A DICOM file of presentation values [size, size] (uint16, 12 bits, dense = bright).

    key: determines its unique identifiers; rng: transfer syntax, direction of the grey scale and the rest.
    """
    inverted, syntax = rng.random() < INVERTED_SHARE, SYNTAXES[int(rng.choice(3, p=SYNTAX_SHARE))]
    ds = Dataset()
    patient_and_study(ds, identity, age, study, key, rng)
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    _acquisition(ds, view, rng)
    _image(ds, pixels, view, inverted)
    return encoded(ds, syntax)


def _acquisition(ds: Dataset, view: View, rng: np.random.Generator) -> None:
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.BodyPartExamined, ds.ImageLaterality = "CHEST", "U"
    ds.ViewPosition, ds.PatientOrientation = "PA" if view.front else "AP", ["L", "F"]
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    ds.ViewCodeSequence = [
        _code("399348003", "SCT", "postero-anterior") if view.front else _code("399033003", "SCT", "antero-posterior")
    ]
    ds.AcquisitionContextSequence = []
    ds.KVP, ds.ExposureInuAs = "120", int(rng.integers(1200, 4200))
    ds.DistanceSourceToDetector = f"{view.source:.0f}"
    ds.DetectorType, ds.DetectorConfiguration = "DIRECT", "AREA"
    ds.FieldOfViewShape, ds.PositionerType = "RECTANGLE", "NONE"


def _image(ds: Dataset, pixels: np.ndarray, view: View, inverted: bool) -> None:
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.DerivationDescription = "Simulated"
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, *pixels.shape
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    low, high = (int(v) for v in np.percentile(pixels[::4, ::4], (1, 99)))
    center, width = (low + high + 1) // 2, max(high - low, 2)
    ds.WindowCenter, ds.WindowWidth = str(4095 - center if inverted else center), str(width)
    ds.WindowCenterWidthExplanation = "NORMAL"
    ds.ImagerPixelSpacing = ds.PixelSpacing = [f"{view.spacing:.6f}"] * 2
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    stored = 4095 - pixels if inverted else pixels
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
