"""Classes called after sides that views mirror are named, with the setting that does not."""

import pytest

from dira_scale.finetune.remarks import told_apart_by_side
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.data.views.parts import Blur, Cutout, InverseCutout, Jitter, Shuffle

NOTHING = {"blur": Blur(p=0), "cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}


@pytest.mark.parametrize(
    ("outputs", "size", "flip", "advice"),
    [
        (["Left lung", "Right lung"], 64, 0.5, "what Left lung and Right lung tell apart: use views.flip=0"),
        (["upper_lobe"], 64, 0.5, None),  # images are not mirrored top to bottom
        (["lung", "bright spot", "copyright"], 64, 0.5, None),
        (["Left lung"], 64, 0.0, None),
        (["anterior", "posterior"], (16, 32, 32), 0.5, "use views.flip=[0.5,0,0.5]"),
        (["anterior", "posterior"], (16, 32, 32), (0.5, 0.0, 0.5), None),
        (["left kidney", "upper lobe"], (16, 32, 32), (0.3, 0.0, 0.5), "use views.flip=0"),
    ],
)
def test_classes_of_mirrored_sides(outputs: list[str], size: object, flip: object, advice: str | None) -> None:
    views = ViewSpec(size=size, flip=flip, jitter=Jitter(p=0), **NOTHING)  # type: ignore[arg-type]
    lines = told_apart_by_side(outputs, views)
    assert len(lines) == (advice is not None) and (advice is None or lines[0].endswith(advice))
