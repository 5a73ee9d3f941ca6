"""Limits of images and volumes: a header that claims more is damaged, or a decompression bomb. Sharding refuses it, and
so do readers of manifests, which may be a stranger's."""

MAX_PIXELS = 2**26  # 67 million; large mammograms have 30
MAX_VOXELS = 2**31  # 1,600 slices of 1,150 x 1,150
MAX_CHANNELS = 16  # time series have more
MIN_SPACING, MAX_SPACING = 1e-3, 1e3  # mm
