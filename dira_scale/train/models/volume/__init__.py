"""Networks of volumes, by one field: ``model=unet3d``, ``resenc_l``, ``swinunetr``, ``vit3d`` or
``inflated_vit``."""

GROUPS = 8  # of GroupNorm, whose channels must divide by it
