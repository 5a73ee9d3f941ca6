"""Volumes: DICOM series, NIfTI, MetaImage, NRRD, TIFF stacks and NumPy arrays to one ``Volume``; and its
preparation for a recipe."""

from dira_scale.archive.imaging.volumes.prepare import prepare
from dira_scale.archive.imaging.volumes.read import read_volume, read_volume_mask

__all__ = ["prepare", "read_volume", "read_volume_mask"]
