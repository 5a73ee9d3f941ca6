"""Files of every kind that the converter takes, and what accident or malice makes of them. Seeded: the same each time.

``valid``: small good files; ``damage`` spoils any of them; ``liars`` have headers that lie; ``bombs`` are much larger
than they look; ``places`` are odd names, links and things that are no files; ``tables`` are CSV files as nobody should
write them; ``tars`` are shards that name other places.
"""

from archive.mutants.bombs import bombs
from archive.mutants.damage import damaged
from archive.mutants.liars import array_liars, dicom_liars, nifti_liars, raster_liars, text_liars
from archive.mutants.mutant import NAME, Mutant, file, files
from archive.mutants.places import companions, places
from archive.mutants.valid import dicom, images, numpy_file, picture, raster, series, stacks, volumes, voxels

__all__ = [
    "NAME", "Mutant", "array_liars", "bombs", "companions", "damaged", "dicom", "dicom_liars", "file", "files",
    "images", "nifti_liars", "numpy_file", "picture", "places", "raster", "raster_liars", "series", "stacks",
    "text_liars", "volumes", "voxels",
]  # fmt: skip
