"""How long fine-tuning takes on this machine, from a measured step."""

import pytest

from dira_scale.config.compose import compose
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.forecast import here


@pytest.mark.parametrize(("steps", "share"), [("null", 1.0), ("60", 0.6)])
def test_hours_are_images_times_the_seconds_of_one(monkeypatch: pytest.MonkeyPatch, steps: str, share: float) -> None:
    words = ["task=masks", "model.encoder=test_resnet", "data.size=32", "data.batch=10", f"steps={steps}"]
    words += ["stages.finetune.epochs=10", "epoch_factor=1"]
    blueprint = FinetuneBlueprint(compose("plan_finetune", words))
    shapes = list[tuple[int, ...]]()
    monkeypatch.setattr(here, "seconds_of", lambda network, shape, precision: shapes.append(shape) or 1800.0 * shape[0])
    monkeypatch.setattr(here, "duration", lambda hours: f"{hours:.3f} h")
    said = blueprint.here(100)  # 10 epochs of 10 steps of 10 images, half an hour each
    assert f"about {500 * share:.3f} h for {round(100 * share)} steps" in said
    assert shapes[0][0] == 10 and shapes[0][2:] == (32, 32)
