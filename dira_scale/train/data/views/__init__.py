"""The views of a sample: what a method asks for, and what each of them gets. ``augmentations`` says what happens."""

from dira_scale.train.data.geometry.crop import Geometry
from dira_scale.train.data.views.augmentations import PlaneViews, VolumeViews
from dira_scale.train.data.views.distortion import CHANNEL_DROPOUT, COLOUR, Distortion
from dira_scale.train.data.views.draw import draw
from dira_scale.train.data.views.parts import (
    CUTOUT,
    INVERSE_CUTOUT,
    LUMA,
    NONE,
    REFERENCE_SIZE,
    SHUFFLE,
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
from dira_scale.train.data.views.settings import TARGET_FLIPS, Views
from dira_scale.train.data.views.spec import ViewSpec, fixed_views

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
    "PlaneViews",
    "Shuffle",
    "SizedCrop",
    "Tone",
    "ViewSpec",
    "Views",
    "VolumeViews",
    "Warp",
    "draw",
    "fixed_views",
]
