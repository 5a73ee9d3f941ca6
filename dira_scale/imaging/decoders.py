"""Which DICOM transfer syntaxes this machine can decode; works without imagecodecs installed."""

from contextlib import suppress

from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS as DECODERS


def dicom_decoders() -> dict[str, bool]:
    """Whether each transfer syntax, by name, can be decoded here."""
    with suppress(ImportError):  # without imagecodecs: only what pydicom decodes itself
        import dira_scale.imaging.dicom.codestream  # noqa: F401 (registers our decoders with pydicom)
    return {uid.name: decoder.is_available for uid, (decoder, *_) in DECODERS.items()}
