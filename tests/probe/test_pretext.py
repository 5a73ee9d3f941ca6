"""Pretext probes: pictures and examples by brute force, and the verb on features that know, and do not know."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_run import COUNTS, train, write

from dira_scale.base.errors import UserError
from dira_scale.probe import main
from dira_scale.probe.pretext import PatchPositions, Turns, pretext_task
from dira_scale.probe.probing import PARTS


@pytest.mark.parametrize("sides", [(32, 32), (16, 16, 16)])
def test_turns_are_of_numpy(sides: tuple[int, ...]) -> None:
    images, turns = torch.rand(3, 1, *sides), Turns(sides)
    planes = [(0, 1)] if len(sides) == 2 else [(1, 2), (0, 2), (0, 1)]
    ways = [(0, (0, 1)), *((k, plane) for plane in planes for k in (1, 2, 3))]
    expected = [np.rot90(image[0], *way) for image in images.numpy() for way in ways]
    np.testing.assert_array_equal(turns.seen(images)[:, 0], np.stack(expected))
    assert len(turns.classes) == turns.pictures == len(ways)
    assert turns.classes[:2] == (("0", "90") if len(sides) == 2 else ("0", "90 about depth"))
    assert turns.examples(np.eye(4)).tolist() == np.eye(4).tolist()


@pytest.mark.parametrize(("sides", "cells"), [((64, 32), None), ((16, 32, 32), None), ((56, 28), 14)])
def test_patches_lie_where_the_grid_has_them(sides: tuple[int, ...], cells: int | None) -> None:
    """Constant cells: each patch has its cell's value, whole. Examples have the middle's features, then the other's."""
    positions, n, grid = PatchPositions(sides, cells), len(sides), cells
    cells = [*product(range(3), repeat=n)]
    image = torch.zeros(1, 1, *sides)
    for number, cell in enumerate(cells):
        if grid:  # 14 cells on each axis, of which 6, 7 and 8 are the middle ones
            parts = [slice(side // 14 * (6 + at), side // 14 * (7 + at)) for at, side in zip(cell, sides, strict=True)]
        else:
            starts = [at * (side // 4 + side // 8) for at, side in zip(cell, sides, strict=True)]
            parts = [slice(start, start + side // 4) for start, side in zip(starts, sides, strict=True)]
        image[(0, 0, *parts)] = number + 1.0
    seen = positions.seen(image.repeat(2, 1, *[1] * n))
    assert seen.shape == (2 * len(cells), 1, *sides)
    values = torch.arange(1.0, len(cells) + 1).repeat(2).view(-1, *[1] * (n + 1)).expand_as(seen)
    torch.testing.assert_close(seen, values)
    features = np.arange(2.0 * 2 * len(cells)).reshape(-1, 2)
    middle, expected = len(cells) // 2, []
    for i in range(2):
        of = features[i * len(cells) : (i + 1) * len(cells)]
        expected += [[*of[middle], *of[k]] for k in range(len(cells)) if k != middle]
    assert positions.examples(features).tolist() == expected
    assert len(positions.classes) == len(cells) - 1 and positions.classes[0] == " ".join(["-1"] * n)


def test_each_image_is_an_example_of_every_class() -> None:
    patients = {part: np.array(["a", "b"]) for part in PARTS}
    task = pretext_task("rotation", Turns((8, 8)), patients)
    assert task.names == ("rotation: 0", "rotation: 90", "rotation: 180", "rotation: 270")
    assert task.patients["val"].tolist() == ["a"] * 4 + ["b"] * 4
    assert task.labels["test"].argmax(1).tolist() == [0, 1, 2, 3] * 2 and task.classes == {"rotation": range(4)}


def test_the_verb_tells_turns_apart(tmp_path: Path) -> None:
    """Pictures are brighter to the right: raw pixels know the turn, and no labels are needed. A sweep finds
    the accuracy."""
    from dira_scale.sweep.results import probing

    shards = write(tmp_path / "shards", names=[], slope=1000)
    run = train(tmp_path / "demo", seed=0)
    words = ["random_encoders=1", "c=[1.0]", "data.workers=1", "pretext=rotation", "probes=[linear]"]
    assert main([f"run={run}", f"data.shards={shards}", *words]) == 0
    content = json.loads((run / "probe" / "probe.json").read_text())
    rows = {row["kind"]: row for row in content["figures"] if (row["metric"], row["label"]) == ("accuracy", "rotation")}
    accuracy = {kind: row["spread"]["mean"] for kind, row in rows.items()}
    assert accuracy["pixels"] > 0.95 and 0 <= accuracy["run"] <= 1
    assert rows["pixels"]["images"] == 4 * COUNTS["train"] and content["data"]["images"] == COUNTS
    found = dict(probing(run / "probe")[0])
    assert found["accuracy/pixels//linear/1/rotation"] == 100 * accuracy["pixels"]


@pytest.mark.parametrize(
    ("words", "output"),
    [(["pretext=rotaton"], "pretext=rotaton"), (["pretext=position", "labels=[a]"], "leave labels out"),
     (["pretext=position", "embeddings=x"], "leave embeddings out")],
)  # fmt: skip
def test_other_pretexts_and_labels_beside_them_are_refused(
    words: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data.shards=any", *words]) == 2
    assert output in capsys.readouterr().err


def test_views_that_are_no_cubes_are_not_turned() -> None:
    with pytest.raises(UserError, match="views of 8 x 16 x 16 need equal sides"):
        Turns((8, 16, 16))
