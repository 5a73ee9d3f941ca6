"""A stage with views of another size: in proportion, from loader to loss, exact over a stop, planned, refused."""

from pathlib import Path

import pytest
from harness import assert_equal_runs, rows
from toy_run import write

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.fleet.forecast.network import fake_task
from dira_scale.fleet.forecast.rehearsal import rehearse
from dira_scale.pretrain import main
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.runs.identity import execution, run_name

ARGUMENTS = "model.arguments={depth: 4, embed_dim: 32, num_heads: 2}"
WORDS = [
    "method=dinov2", "views=dinov2", "optim=adamw", "data.size=64", "data.batch=8", "data.val_split=null",
    "model.encoder=vit_small_patch16_dinov3", ARGUMENTS, "precision=fp32", "model.bn_groups=1", "method.prototypes=16",
    "method.hidden=16", "method.bottleneck=8", "method.anchor=teacher", "method.anchor_every=2", "log_every=1",
    "views.corruptions.mask.patch=16", "views.crops=[{count: 2}, {count: 2, size: 32, corruptions: {}},"
    "{count: 2, size: 96, same_as: 0}]", "stages.di.epochs=0", "stages.dir.epochs=0", "stages.dira.epochs=0",
    "+stages.low={terms: [di, ibot, koleo], epochs: 0.5}", "data.workers=1",
    "+stages.high={terms: [di, ibot, koleo, gram], epochs: 0.3, batch: 4, size: 96}",
]  # fmt: skip


def test_other_crops_are_in_proportion() -> None:
    local = {"count": 8, "size": 98, "corruptions": {}}
    views = ViewSpec(crops=({"count": 2}, local, {"count": 2, "size": 448, "same_as": 0}))
    assert [view.size for view in views.resized(448).entries] == [448, 196, 896]
    assert [view.size for view in views.resized(336).entries] == [336, 140, 672]  # 147 is no multiple of 14
    again = views.resized(336).resized(224)
    assert again.drawn_as == views.drawn_as and again.entries[0] == views.entries[0]


def test_a_run_that_is_stopped_around_the_change_ends_with_the_same_weights(tmp_path: Path) -> None:
    words = [*WORDS, f"data.shards={write(tmp_path / 'toy', width=32)}"]
    assert main([*words, f"run={tmp_path / 'unbroken'}"]) == 0
    for steps in (4, 6):  # the end of the first stage, and within the second
        assert main([*words, f"run={tmp_path / 'stopped'}", f"steps={steps}"]) == 0
    assert main([*words, f"run={tmp_path / 'stopped'}"]) == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "unbroken")
    seen = rows(tmp_path / "unbroken")
    assert [(row["stage"], "loss/gram" in row) for row in seen] == 4 * [("low", False)] + 4 * [("high", True)]
    log = (tmp_path / "unbroken" / "log.txt").read_text()
    assert "low 4 of 8 images, high 4 of 4 images at 96 pixels" in log


def test_a_plan_has_the_larger_views_of_the_stage() -> None:
    fake = fake_task(PretrainBlueprint(compose("pretrain", [*WORDS, "data.shards=none"])))
    low, high = (rehearse(fake, stage, 4, gpu=False) for stage in fake.stages)
    assert high.forward.flops > 2 * low.forward.flops  # 36 patches for 16 in a global crop, and its anchor's


def test_runs_without_it_keep_their_names() -> None:
    """The key is null of all stages that do not name it, and was not there before."""
    composed = compose("pretrain", ["data.shards=none", "experiment=small_dinov2"])

    def name(**size: int | None) -> str:
        return run_name({"stages": {"any": {"epochs": 1} | size}}, execution("pretrain"))

    assert "size" in composed.stages.dinov2 and name() == name(size=None) != name(size=96)


@pytest.mark.parametrize(("words", "message"), [
    (["experiment=small_dinov2", "stages.dinov2.size=100"], r"^stages\.dinov2\.size=100: expected one that these"),
    (["experiment=small", "stages.di.size=96"], r"stages\.di\.size=96: expected null: DiRA has views of one size"),
    (["experiment=small_dinov2", "stages.dinov2.size=4"], r"^stages\.dinov2\.size=4: expected .* at least 8"),
])  # fmt: skip
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PretrainBlueprint(compose("pretrain", ["data.shards=none", *words])).check(ranks=1)
