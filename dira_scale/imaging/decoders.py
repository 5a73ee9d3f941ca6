"""Which codings of DICOM can be decoded on this machine; asked before imagecodecs is known to be there."""

from contextlib import suppress

from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS as DECODERS


def dicom_decoders() -> dict[str, bool]:
    """Transfer syntaxes by name, and whether each can be decoded here."""
    with suppress(ImportError):  # without imagecodecs, only what pydicom reads by itself
        import dira_scale.imaging.dicom.codestream  # noqa: F401 (it gives pydicom the decoders that we read with)
    return {uid.name: decoder.is_available for uid, (decoder, *_) in DECODERS.items()}
