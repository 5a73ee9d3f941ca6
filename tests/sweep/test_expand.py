"""A sweep's runs against brute force, and what their names promise."""

import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.sweep.command_line import read
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import Run, SweepFolder

FOLDER = Path("/sweeps/one")
VALUES = st.one_of(st.integers(0, 99), st.booleans(), st.sampled_from(["a", "b c", "x/y", "Ä{}", "1", ""]))
# Keys of `probe`, which a phase may have in these tests without a run to read.
GRIDS = st.dictionaries(
    st.sampled_from(["stage", "layer", "init", "model.encoder"]),
    st.lists(VALUES, min_size=1, max_size=3, unique_by=str),
)


def phase(command: str = "probe", **parts: Any) -> Phase:
    return Phase(command=command, **{"set": {"data.shards": "d"}, **parts})


def runs(typed: dict[str, dict[str, Any]] | None = None, folder: Path = FOLDER, **phases: Phase) -> list[Run]:
    given = {name: {key: read(text) for key, text in of.items()} for name, of in (typed or {}).items()}
    return expand(Sweep(name="one", phases=phases), folder, given)


def value(run: Run, key: str) -> str | None:
    return next((word.partition("=")[2] for word in run.words if word.startswith(f"{key}=")), None)


@settings(max_examples=30)
@given(GRIDS, st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=3), st.integers(0, 3))
def test_runs_are_the_product_of_list_grid_and_seeds(grid: dict[str, list[Any]], seeds: list[int], listed: int) -> None:
    entries = [{"k": n} for n in range(listed)]
    result = runs(probe=phase(grid=grid, seeds=seeds, list=entries or None))
    expected = [
        {**entry, **dict(zip(grid, values, strict=True)), "seed": seed}
        for entry in entries or [{}]
        for values in product(*grid.values())
        for seed in seeds
    ]
    assert [run.varied for run in result] == [{f"probe.{k}": v for k, v in item.items()} for item in expected]
    assert len({run.name for run in result}) == len({run.output for run in result}) == len(expected)
    for run in result:
        assert re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*-)?[0-9a-f]{8}", run.name) and len(run.name) <= 80
        assert run.words[-1] == f"out={FOLDER}/{run.id}/output" == f"out={FOLDER / run.output}"


@settings(max_examples=20)
@given(GRIDS, st.data())
def test_names_stay_when_a_grid_grows(grid: dict[str, list[Any]], data: st.DataObject) -> None:
    """Or when its keys and values change places."""
    more = {key: data.draw(st.permutations([*values, "new value"])) for key, values in grid.items()}
    larger = {key: more[key] for key in data.draw(st.permutations(list(more)))}
    before, after = ({run.id.rpartition("-")[2] for run in runs(probe=phase(grid=item))} for item in (grid, larger))
    assert before <= after and len(after) == len(list(product(*larger.values())))


def test_a_sweep_of_dependent_phases() -> None:
    shards = phase("shard", set={"recipe": "phantom_cxr"}, grid={"recipe.size": [64, 128]})
    train = phase("pretrain", for_each="shards", set={"data.shards": "{shards}"}, seeds=3)
    probe = phase(for_each=["train", "shards"], set={"data.shards": "{shards}"}, grid={"fractions": [[1.0], [0.1]]})
    result = runs(shards=shards, train=train, probe=probe)
    of = {name: [run for run in result if run.phase == name] for name in ("shards", "train", "probe")}
    assert [len(of[name]) for name in of] == [2, 6, 12]
    known = {run.id: run for run in result}
    seen: set[str] = set()
    for run in result:
        assert set(run.needs) <= seen
        seen.add(run.id)
    for run in of["probe"]:  # of one training run, and of the data that this one was trained on
        (trained,) = [known[need] for need in run.needs if need.startswith("train/")]
        assert [need for need in run.needs if need.startswith("shards/")] == trained.needs
        assert value(run, "run") == f"{FOLDER}/{trained.id}/output" == value(trained, "run")
        assert value(run, "data.shards") == f"{FOLDER}/{trained.needs[0]}/output" == value(trained, "data.shards")
        assert trained.varied.items() <= run.varied.items() and set(run.varied) == {
            "shards.recipe.size", "train.seed", "probe.fractions",
        }  # fmt: skip
    elsewhere = runs(folder=Path("/another, place"), shards=shards, train=train, probe=probe)
    assert [run.id for run in elsewhere] == [run.id for run in result]


def test_a_phase_for_all_runs_of_others() -> None:
    shards = phase("shard", set={"recipe": "phantom_cxr"}, grid={"recipe.size": [64, 128]})
    moco = phase("pretrain", set={"data.shards": "d"}, seeds=3)
    dira = phase("pretrain", for_each="shards", set={"data.shards": "{shards}"})
    probe = phase(for_each="shards", for_all=["moco", "dira"], set={"data.shards": "{shards}"}, grid={"layer": [1, 2]})
    result = runs(shards=shards, moco=moco, dira=dira, probe=probe)
    of = {name: [run for run in result if run.phase == name] for name in ("shards", "moco", "dira", "probe")}
    trained = [run.id for name in ("moco", "dira") for run in of[name]]
    assert len(trained) == 5 and len(of["probe"]) == 4
    for run in of["probe"]:
        (data,) = {*run.needs} - {*trained}
        assert {*run.needs} == {data, *trained} and data.startswith("shards/")
        assert read(value(run, "run") or "") == [f"{FOLDER}/{other}/output" for other in trained]
        assert set(run.varied) == {"shards.recipe.size", "probe.layer"}
    some = phase(for_all=["moco", "dira"], set={"data.shards": "d", "run": ["x", "{dira}"], "init": "y"})
    run = runs(shards=shards, moco=moco, dira=dira, probe=some)[-1]
    outputs = [f"{FOLDER}/{other.id}/output" for other in of["dira"]]
    assert read(value(run, "run") or "") == [str(Path("x").absolute()), *outputs]
    tune = phase(
        "finetune",
        for_each="shards",
        for_all=["moco", "dira"],
        set={"data.shards": "{shards}", "task": "labels"},
        grid={"init": ["random", "{moco}"], "data.fraction": [0.1, 1]},
        list=[{"k": 1}, {"task.start": "{dira}"}],
    )
    result = [run for run in runs(shards=shards, moco=moco, dira=dira, tune=tune) if run.phase == "tune"]
    known = [f"{FOLDER}/{run.id}/output" for run in [*of["shards"], *of["moco"], *of["dira"]]]
    starts = ["random", *known[2:5]]
    expected = Counter(product(known[:2], starts, ["0.1", "1"], [None, "own"]))  # one run of `dira` for each shards
    follows = dict(zip(known[:2], known[5:], strict=True))
    counted: Counter[tuple[str | None, ...]] = Counter()
    for run in result:
        data, start = value(run, "data.shards") or "", (value(run, "task.start") or "").strip("'") or None
        assert start in (None, follows[data])
        counted[data, value(run, "init") or "", value(run, "data.fraction"), start and "own"] += 1
        read_there = {data, value(run, "init"), start} - {None, "random"}
        assert {f"{FOLDER}/{need}/output" for need in run.needs} == read_there
        assert ("moco.seed" in run.varied) == (value(run, "init") != "random")
    assert counted == expected
    more = runs(shards=shards, moco=phase("pretrain", set={"data.shards": "d"}, seeds=4), dira=dira, probe=probe)
    assert {*digests(more)}.isdisjoint(digests(of["probe"]))  # another seed is another table


def test_keys_that_do_not_change_the_result_do_not_change_the_name() -> None:
    def name(**keys: Any) -> str:
        return runs(train=phase("pretrain", set={"data.shards": "d", **keys}))[0].name

    assert name() == name(**{"data.workers": 7, "parallel": "fsdp2", "parallel.timeout": 9})
    assert len({name(), name(steps=5), name(seed=1), name(**{"data.shards": "other"})}) == 4
    varied = runs(train=phase("pretrain", grid={"parallel": ["ddp", "fsdp2"]}))
    assert len({run.name for run in varied}) == 2


def test_a_typed_value_replaces_the_sweeps() -> None:
    item = phase(set={"data.shards": "d", "stage": "a"}, grid={"layer": [1, 2]}, seeds=2, list=[{"k": 3}, {"k": 4}])
    result = runs({"probe": {"layer": "[1,2]", "k": "x y", "stage": "b c"}}, probe=item)
    assert [run.varied for run in result] == [{"probe.seed": 0}, {"probe.seed": 1}]
    assert all((value(r, "layer"), value(r, "k"), value(r, "stage")) == ("[1,2]", "'x y'", "'b c'") for r in result)
    # A seed that is typed is that of the grid: its run is found again.
    (typed,) = runs({"probe": {"seed": "1"}}, probe=phase(seeds=2))
    assert typed.name.rpartition("-")[2] == runs(probe=phase(seeds=2))[1].name.rpartition("-")[2]


def digests(result: list[Run], phase: str = "probe") -> list[str]:
    return [run.name.rpartition("-")[2] for run in result if run.phase == phase]


LAYERS = {"stage": "b c", "fractions": [1.0, 0.5], "optim": {"lr": 0.001, "name": "x"}}


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ({}, {"grid": {key: [value] for key, value in LAYERS.items()}}),
        ({}, {"grid": {key: [LAYERS[key]] for key in reversed(LAYERS)}}),
        ({}, {"set": {"data.shards": "d", **LAYERS}}),
        ({}, {"set": {**LAYERS, "data.shards": "d"}}),
        ({}, {"set": {"data.shards": "d", **LAYERS, "fractions": ["1.0", "0.5"]}}),  # quoted in the sweep's file
        ({"optim": "{lr: '0.001', name: x}"}, {"grid": {"fractions": [[1.0, 0.5]]}, "list": [{"stage": "b c"}]}),
        ({}, {"list": [LAYERS | {"optim": {"name": "x", "lr": 1e-3}}]}),
        ({"stage": "b c", "fractions": "[1.0, 0.5]", "optim": "{name: 'x', lr: 1e-3}"}, {}),
        ({"stage": "'b c'", "fractions": "[1.0,0.5]"}, {"grid": {"optim": [LAYERS["optim"]], "stage": ["a"]}}),
    ],
)
def test_wherever_a_value_is_written_it_is_the_same_run(typed: dict[str, str], parts: dict[str, Any]) -> None:
    (expected,) = digests(runs(probe=phase(list=[LAYERS])))
    assert digests(runs({"probe": typed}, probe=phase(**parts))) == [expected]


def test_text_of_another_meaning_is_another_run() -> None:
    texts = ["[a,b]", "['a,b']", "a,b", "a", "ab", "{a: b}"]
    assert len({*(digests(runs({"probe": {"stage": text}}, probe=phase()))[0] for text in texts)}) == len(texts)


def test_a_recorded_run_keeps_its_name_and_those_that_need_it_their_hash(tmp_path: Path) -> None:
    def sweep(**parts: Any) -> list[Run]:
        shards = phase("shard", **{"set": {"recipe": "phantom_cxr"}, **parts})
        train = phase("pretrain", for_each="shards", set={"data.shards": "{shards}"}, seeds=2)
        return runs(folder=tmp_path, shards=shards, train=train)

    before = sweep(grid={"recipe.size": [64]})
    moved = sweep(set={"recipe": "phantom_cxr", "recipe.size": 64})
    assert digests(moved, "shards") == digests(before, "shards") and digests(moved, "train") == digests(before, "train")
    assert {run.id for run in moved}.isdisjoint(run.id for run in before)  # labels differ
    for run in before:
        SweepFolder(tmp_path).add(run)
    result = sweep(set={"recipe": "phantom_cxr", "recipe.size": 64})
    assert [(run.id, run.output, run.words, run.needs) for run in result] == [
        (run.id, run.output, run.words, run.needs) for run in before
    ]
    assert len({run.id for run in sweep(grid={"recipe.size": [64, 128]})} - {run.id for run in before}) == 3


def test_slices_write_one_dataset_and_a_last_run_joins_them() -> None:
    item = phase("shard", set={"recipe": "phantom_cxr", "recipe.name": "x"}, slices=3)
    *slices, joins = runs(shards=item)
    assert [value(run, "slice") for run in slices] == ["1/3", "2/3", "3/3"] and value(joins, "slice") is None
    assert joins.needs == [run.id for run in slices] and {run.phase for run in slices} == {"shards-slices"}
    assert {run.output for run in slices} == {joins.output} and len({run.id for run in slices}) == 3
    assert [word for word in slices[0].words if not word.startswith("slice=")] == joins.words
    item.slices = 5
    assert runs(shards=item)[-1].name == joins.name


def test_local_places_are_absolute_and_others_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, expected in {
        "shards/x": f"{tmp_path}/shards/x", "a b": f"{tmp_path}/a b", "../x": f"{tmp_path}/../x",
        "/data/x": "/data/x", "s3://bucket/x": "s3://bucket/x", "~/x": "~/x", "null": "null",
    }.items():  # fmt: skip
        (written,) = runs(probe=phase(set={"data.shards": text, "stage": text}))
        (typed,) = runs({"probe": {"data.shards": text}}, probe=phase())
        for run in (written, typed):
            assert (value(run, "data.shards") or "").strip("'") == expected
        assert (value(written, "stage") or "").strip("'") == text
    (random,) = runs(tuned=phase("finetune", set={"data.shards": "d", "init": "random"}))
    assert value(random, "init") == "random"  # no folder's name
    several = phase("pretrain", set={"data.shards": {"a": 1, "/b": 2}, "checkpoint.folder": None})
    (item,) = runs(train=several)
    (typed,) = runs({"train": {"data.shards": "{a:1,/b:2}"}}, train=several)
    assert value(item, "data.shards") == value(typed, "data.shards") == f"{{{tmp_path}/a:1,/b:2}}"
    assert value(item, "checkpoint.folder") == "null"
    (listed,) = runs(probe=phase(set={"run": ["x", "s3://y"], "data.shards": "d"}))
    assert value(listed, "run") == f"[{tmp_path}/x,s3://y]"
    # An argument of the source that is chosen, by either way.
    for literal in ({"recipe": "folder", "recipe.images": "i"}, {}):
        source = phase("shard", set={} if literal else {"recipe": "folder", "recipe.images": "i"})
        assert value(*runs({"s": literal}, s=source), "recipe.images") == f"{tmp_path}/i"


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"a": phase(for_each="b")}, r"phases\.a\.for_each=b: no such phase. There are: a"),
        ({"a": phase(for_each="b"), "b": phase(for_all=["a"])}, "these phases need each other: a, b"),
        ({"a": phase(set={"data.shards": "{b}"})}, r"'\{b\}' is not a phase that it needs: add it to for_each"),
        ({"a": phase(set={"out": "x", "data.shards": "d"})}, "out is set by the sweep"),
        ({"a": phase("shard", set={"slice": "1/2"}, slices=2)}, "slice is set by the sweep"),
        (
            {"a": phase(), "b": phase(for_all="a", set={"init": "{a}/x"})},
            r"init=\{a\}/x: for_all has a, so '\{a\}' stands for",
        ),
        ({"a": phase(grid={"k": [1, 1]})}, "two equal runs: k=1"),
        ({"a": phase(seeds=2), "b": phase(for_each="a")}, "phase b: two equal runs"),
        ({"a": phase(set={"seed": 1}, seeds=2)}, "seed is in set and in seeds: keep one"),
        ({"a": phase(list=[{"k": 1}], grid={"k": [2]})}, "k is in list and in grid"),
    ],
)
def test_what_cannot_be_meant_is_refused(phases: dict[str, Phase], message: str) -> None:
    with pytest.raises(UserError, match=message):
        runs(**phases)


def test_a_phase_is_named_that_does_not_exist_is_read_in_two_ways_or_has_no_name_for_keys() -> None:
    with pytest.raises(ArgumentError, match="for_all: expected no a, which for_each has"):
        phase(for_each="a", for_all=["a"])
    for name in ("cluster", "lock", "A", "a-b", "1"):  # its keys could not be typed
        with pytest.raises(ArgumentError, match=f"phases.{name}: expected a name"):
            Sweep(name="one", phases={name: phase()})
    with pytest.raises(UserError, match=r"prob\.…: no key of sweep, and no phase of one; did you mean 'probe'"):
        runs({"prob": {"k": "1"}}, probe=phase())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{command: probe, grid: {k: []}}", r"sweep\.phases\.p\.grid\.k=\[\]: expected a list of values"),
        ("{command: probe, grid: {k: 3}}", r"grid\.k=3: expected a list of values; one value for all goes to set"),
        ("{command: prob}", r"sweep\.phases\.p\.command=prob: expected .*did you mean 'probe'"),
        ("{command: probe, list: []}", r"list=\[\]: expected a list of mappings"),
        ("{command: probe, seeds: 0}", r"seeds=\[\]: expected a number of them, or a list of numbers"),
        ("{command: probe, slices: 2}", "slices=2: expected null: only shard and embed have slices, not probe"),
        ("{command: probe, set: [a]}", r"sweep\.phases\.p\.set=\[a\]: expected a mapping, NAME: VALUE"),
        ("{command: probe, gird: {}}", r"unknown key sweep\.phases\.p\.gird; did you mean 'sweep\.phases\.p\.grid'"),
    ],
)
def test_a_sweep_file_with_a_mistake_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(f"name: mine\nphases:\n  p: {text}\n")
    with pytest.raises(UserError, match=message):
        compose("sweep", ["--config-dir", str(tmp_path), "sweep=mine"])


def test_the_manuals_sweep_file_means_the_runs_that_the_manual_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "slurm.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert text
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sweep), yaml.safe_load(text[1])))
    result = Counter(run.phase for run in expand(config, FOLDER, {}))
    assert result == {"shards-slices": 16, "shards": 1, "pretrain": 6, "probe": 12}
