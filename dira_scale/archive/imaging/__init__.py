"""Pixels and voxels from files: DICOM, raster images, arrays and volumes."""
