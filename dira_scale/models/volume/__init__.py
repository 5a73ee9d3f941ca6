"""Networks of volumes, by one field: ``model=unet3d``, ``resenc_l`` or ``swinunetr``."""

GROUPS = 8  # of GroupNorm, whose channels must divide by it
