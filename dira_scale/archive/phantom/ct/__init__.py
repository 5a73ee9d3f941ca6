"""Phantom CT: a trunk of signed distances painted in HU, scanned into volumes, written as DICOM, NIfTI, MetaImage."""
