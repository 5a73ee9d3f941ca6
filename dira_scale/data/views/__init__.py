"""The views of a sample: what a method asks for, and what each of them gets."""

from dira_scale.data.geometry.crop import Geometry
from dira_scale.data.views.draw import (
    CHANNEL_DROPOUT,
    COLOUR,
    Distortion,
    draw,
    draw_labels,
    draw_partner,
)
from dira_scale.data.views.parts import (
    LUMA,
    REFERENCE_SIZE,
    VIEWS_VERSION,
    Blur,
    Cutout,
    InverseCutout,
    Jitter,
    Shuffle,
    SizedCrop,
    Tone,
    Warp,
)
from dira_scale.data.views.patches import CUTOUT, INVERSE_CUTOUT, NONE, SHUFFLE
from dira_scale.data.views.spec import ViewSpec, fixed_views
from dira_scale.data.views.uniform import TARGET_FLIPS

__all__ = [
    "CHANNEL_DROPOUT",
    "COLOUR",
    "CUTOUT",
    "INVERSE_CUTOUT",
    "LUMA",
    "NONE",
    "REFERENCE_SIZE",
    "SHUFFLE",
    "TARGET_FLIPS",
    "VIEWS_VERSION",
    "Blur",
    "Cutout",
    "Distortion",
    "Geometry",
    "InverseCutout",
    "Jitter",
    "Shuffle",
    "SizedCrop",
    "Tone",
    "ViewSpec",
    "Warp",
    "draw",
    "draw_labels",
    "draw_partner",
    "fixed_views",
]
