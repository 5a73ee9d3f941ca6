"""Networks of volumes, by one field: ``model=unet3d``, ``resenc_l``, ``swinunetr`` or ``vit3d``."""

GROUPS = 8  # of GroupNorm, whose channels must divide by it
