"""`shard list`: however its tasks divide an archive, the plan, the shards and their bytes are those of one command; a
part and a plan of a stranger are data, and lead nowhere; killed at any write, the same command goes on."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import ingest
from archive.imaging.volumes import make
from PIL import Image

import dira_scale.archive.sources as sources
from dira_scale.archive import as_data
from dira_scale.archive.listed import Parts
from dira_scale.archive.plan import planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.stored_plan import stored_plan
from dira_scale.base.errors import UserError
from dira_scale.base.storage.walk import WalkShare, files_below, in_order, walked
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.convert import convert, list_files

KEYS = {"secret": False, "shard_size": 3, "burned_in": "keep"}


def pictures(folder: Path) -> dict[str, Any]:
    """Files with rows and without, masks, boxes, frames, what is hidden, damaged or absent, and links of each kind."""
    images, other = folder / "images", folder / "elsewhere"
    rows = []
    for number in range(30):
        path = (images if number % 3 else other) / f"p{number % 5}" / f"s{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ingest.picture(number)).save(path)
    Image.fromarray(np.eye(48, 40, dtype=np.uint8)).save(images / ".hidden.png")
    (images / "a").symlink_to(images / "p1")  # sorted before what it leads to
    (images / "p2" / "far").symlink_to(other)
    (images / "z").symlink_to(other / "p3")
    (images / "p1" / "one.png").symlink_to(other / "p0" / "s0" / "0.png")
    (images / "p4" / "copy.png").symlink_to(images / "p1" / "s1" / "1.png")
    (images / "p4" / "gone.png").symlink_to(folder / "nowhere.png")
    (images / "p4" / "shown.png").symlink_to(images / ".hidden.png")
    (images / "p1" / "empty.png").write_bytes(b"")
    ingest.dicom(images / "p1" / "many.dcm", np.zeros((40, 40), np.uint16), PatientID="P9")
    for number in range(24):
        path = f"p{number % 5}/s{number % 2}/{number}.png"
        mask = "p4/s0/4.png" if number == 1 else ""
        rows.append({"file": path if number % 3 else f"p2/far/{path}", "patient": f"P{number % 7}", "mask": mask})
    ingest.csv(folder / "labels.csv", [*rows, {"file": "absent.png", "patient": "P1", "mask": ""}])
    ingest.csv(folder / "boxes.csv", [{"file": "a/s1/1.png", "label": "x", "y": 1, "x": 2, "h": 3, "w": 4}])
    return {"images": str(images), "boxes": str(folder / "boxes.csv")}


def with_labels(folder: Path) -> dict[str, Any]:
    columns = {"file": "file", "patient": "patient", "study": None, "split": None, "mask": "mask"}
    return pictures(folder) | {"labels": str(folder / "labels.csv"), "columns": columns}


def volumes(folder: Path) -> dict[str, Any]:
    """Series whose slices are in several folders and levels, echoes, a scout's copy, single files."""
    images, values = folder / "images", make.smooth((6, 40, 40))
    for number in range(4):
        at = images / f"p{number}" / "ct"
        paths = make.series(at, values, SeriesInstanceUID=f"1.{number}", PatientID=f"P{number}", Modality="CT")
        (images / "more" / f"deep{number}").mkdir(parents=True)
        for path in paths[::2]:
            path.rename(images / "more" / f"deep{number}" / f"{number}{path.name}")
    paths[1].rename(images / f"top{paths[1].name}")
    np.save(images / "p1" / "alone.npy", values)
    (images / "link.npy").symlink_to(folder / "far.npy")
    np.save(folder / "far.npy", values)
    return {"images": str(images), "modality": "CT"}


KINDS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "pictures": ("folder", pictures), "labels": ("folder", with_labels), "volumes": ("volumes", volumes),
}  # fmt: skip


def listed(config: dict[str, Any], out: Path, total: int) -> None:
    for number in range(1, total + 1):
        list_files(config, out, 1, share=f"{number}/{total}")


@pytest.mark.parametrize("total", [2, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_any_division_gives_the_plan_of_one_task(tmp_path: Path, kind: str, total: int) -> None:
    name, make_source = KINDS[kind]
    recipe = Recipe.from_config(config := ingest.recipe(name, **KEYS | make_source(tmp_path)))
    hasher, out = recipe.hasher(None)[0], tmp_path / "out"
    whole = planned_from(recipe.make_source(), recipe, hasher, 1)
    listed(config, out, total)
    inspector = recipe.inspector()
    assert inspector
    parts = Parts(out, recipe.listing, inspector[0])
    joined = planned_from(recipe.make_source(), recipe, hasher, 1, parts)
    assert joined.hash == whole.hash and list(joined) == list(whole) and len(whole) > 4
    list_files(config, out, 1)
    stored = stored_plan(out, recipe, recipe.identity(hasher), hasher)
    assert stored and (stored.hash, stored.shards) == (whole.hash, whole.shards)
    assert [i for i in stored if not i.record.rejected] == [i for i in whole if not i.record.rejected]
    assert list(stored.modalities()) == list(whole.modalities())


def test_slices_of_a_stored_plan_list_nothing_and_write_the_bytes_of_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, one = ingest.recipe("folder", **KEYS | with_labels(tmp_path)), tmp_path / "out", tmp_path / "one"
    convert(config, one, workers=1)
    listed(config, out, 3)
    before = (out / ".partial/listed/2-of-3.parquet").stat()
    list_files(config, out, 1, share="2/3")
    assert (out / ".partial/listed/2-of-3.parquet").stat() == before and "was listed before" in capsys.readouterr().out
    with pytest.raises(UserError, match="not joined: run `shard list` without slice"):
        convert(config, out, workers=1, share="1/2")
    list_files(config, out, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "make_source", lambda _: pytest.fail("listed again"))
        for share in ("2/2", "1/2", None, None):  # the last one on what is finished
            convert(config, out, workers=1, share=share)
    assert ingest.contents(out) == ingest.contents(one)
    assert (tmp_path / "out.rejected.csv").read_bytes() == (tmp_path / "one.rejected.csv").read_bytes()
    assert ShardedDataset.open(out).info.modality


def rewritten(path: Path, change: Callable[[str], str], column: str) -> None:
    """A file of a listing or plan with other texts."""
    table = pq.read_table(path)
    texts = pa.array([change(text) for text in table[column].to_pylist()], pa.string())
    pq.write_table(table.set_column(table.column_names.index(column), column, texts), path, row_group_size=3)


SERIES = "dira_scale.archive.imaging.volumes.series.Series"
PART, PLAN = ".partial/listed/1-of-2.parquet", ".partial/plan/000000.parquet"


def record(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return lambda out: rewritten(out / PLAN, changed, "record")


def file(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda out: rewritten(out / PART, change, "file")


def facts(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(out: Path) -> None:
        content = json.loads((path := out / ".partial/plan.json").read_text())
        change(content)
        path.write_text(json.dumps(content))

    return changed


def told(key: str, value: Any) -> Callable[[Path], None]:
    return facts(lambda c: c.update(stored=json.dumps(json.loads(c["stored"]) | {key: value})))


ODD: dict[str, Callable[[Path], object]] = {
    "a part that is cut": lambda out: (out / PART).write_bytes((out / PART).read_bytes()[:-20]),
    "a part that is missing": lambda out: (out / PART).unlink(),
    "a part of another number": lambda out: (out / PART).rename(out / PART.replace("1-of-2", "3-of-3")),
    "a part of text": lambda out: (out / PART).write_text("x"),
    "a part above": file(lambda text: text.replace('"path":"', '"path":"../')),
    "a part of the root": file(lambda text: text.replace('"path":"', '"path":"/etc/')),
    "a part of numbers": file(lambda text: text.replace('"size":', '"size":"a","x":')),
    "a part of frames": file(lambda text: text.replace('"header":{', '"header":{"frames":"9999999",')),
    "a part of depth": file(lambda text: "[" * 10**5),
    "a plan that is cut": lambda out: (out / PLAN).write_bytes((out / PLAN).read_bytes()[:-20]),
    "a plan that is missing": lambda out: (out / PLAN).unlink(),
    "a file elsewhere": record(lambda r: r.update(image="/etc/passwd")),
    "a file above": record(lambda r: r.update(image=str(Path(r["image"]).parent) + "/../../../secret.png")),
    "a mask elsewhere": record(lambda r: r.update(mask="/etc/passwd")),
    "a series elsewhere": record(lambda r: r.update(image={"kind": SERIES, "folder": r["image"], "names": "/etc/x"})),
    "a class of somebody": record(lambda r: r.update(image={"kind": "os.system", "command": "true"})),
    "a class of ours": record(
        lambda r: r.update(
            image={"kind": "dira_scale.archive.sources.structure_masks.StructureMask", "paths": [], "patterns": []}
        )
    ),
    "a module of nobody": record(lambda r: r.update(image={"kind": "dira_scale.archive.nothing.X"})),
    "another name": record(lambda r: r.update(name="x")),
    "labels of text": record(lambda r: r.update(labels=["x"])),
    "no name": record(lambda r: r.pop("name")),
    "another plan's columns": lambda out: pq.write_table(pa.table({"x": [1]}), out / PLAN),
    "counts of text": told("counts", {"train": "9"}),
    "more than there is": told("counts", {"train": 10**12}),
    "shards of nothing": told("shard_size", 0),
    "a split above": told("counts", {"../x": 9}),
    "links elsewhere": lambda out: (told("links", ["/etc/passwd"])(out), ODD["a file elsewhere"](out)),
    "no JSON": lambda out: (out / ".partial/plan.json").write_text("{"),
    "no recipe": facts(lambda c: c.pop("recipe")),
    "another recipe": facts(lambda c: c["recipe"].update(min_side=1)),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_part_or_plan_that_is_not_as_written_is_one_error(tmp_path: Path, odd: str) -> None:
    config, out = ingest.recipe("folder", **KEYS | pictures(tmp_path) | {"boxes": None}), tmp_path / "out"
    listed(config, out, 2)
    if "part" not in odd:
        list_files(config, out, 1)
    ODD[odd](out)
    with pytest.raises(UserError) as caught:
        (list_files if "part" in odd else convert)(config, out, 1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert not list(out.glob("*.tar"))


def test_a_file_that_a_table_names_elsewhere_is_in_no_plan(tmp_path: Path) -> None:
    config, out = ingest.recipe("folder", **KEYS | with_labels(tmp_path)), tmp_path / "out"
    (tmp_path / "other").mkdir()
    Image.fromarray(ingest.picture(0)).save(tmp_path / "other" / "x.png")
    ingest.csv(tmp_path / "tables.csv", [{"file": str(tmp_path / "other/x.png"), "patient": "P", "mask": ""}])
    (tmp_path / "apart").mkdir()
    (tmp_path / "tables.csv").rename(tmp_path / "apart" / "labels.csv")
    with pytest.raises(UserError, match=r"x\.png is not in a folder that the recipe names.*without `shard list`"):
        list_files(config | {"labels": str(tmp_path / "apart" / "labels.csv"), "boxes": None}, out, 1)


def test_shares_of_a_walk_are_disjoint_whole_and_in_its_order(tmp_path: Path) -> None:
    """And a task lists no folder in depth that is another's."""
    for number in range(300):
        (tmp_path / f"p{number % 60}" / f"s{number % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"p{number % 60}" / f"s{number % 7}" / f"{number}").touch()
    for name in ("z", "p1/z", ".x"):
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert names == sorted(names, key=in_order) and len(names) == 302
    shares = [WalkShare(tmp_path, number, 3) for number in (1, 2, 3)]
    parts = [[met.path.relative_to(tmp_path).as_posix() for met in walked(tmp_path, share)] for share in shares]
    assert sorted(name for part in parts for name in part) == sorted(names) and all(len(part) > 30 for part in parts)
    assert shares[0].depth == 1 and not {n.split("/")[0] for n in parts[0] if "/" in n} & {
        n.split("/")[0] for n in parts[1] if "/" in n and n != "p1/z"
    }


@pytest.mark.parametrize("kind, most", [("png", 3.2), ("dcm", 3.2)])
def test_a_listed_file_costs_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most: float) -> None:
    """Its size, whether we may read it, and what opening it takes: not a call for each folder on the way."""
    for number in range(200):
        path = tmp_path / "a/b/c/d" / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "dcm":
            ingest.dicom(path, np.zeros((40, 40), np.uint16), PatientID=f"{number}")
        else:
            Image.fromarray(ingest.picture(number)).save(path)
    source = Recipe.from_config(ingest.recipe("folder", images=str(tmp_path))).make_source()
    calls = Counter[str]()
    for name in ("stat", "lstat", "access", "readlink", "open"):
        real = getattr(os, name)

        def counted(path: Any, *more: Any, name: str = name, real: Any = real, **keys: Any) -> Any:
            calls[name] += str(tmp_path) in str(path)
            return real(path, *more, **keys)

        monkeypatch.setattr(os, name, counted)
    real_open = Path.open  # of headers
    monkeypatch.setattr(
        Path, "open", lambda path, *more, **keys: calls.update(["opened"]) or real_open(path, *more, **keys)
    )
    assert sum(1 for _ in source.records(1)) == 200
    assert calls["opened"] == 200 and calls.total() / 200 <= most, calls


def test_every_image_and_mask_of_our_sources_can_be_kept() -> None:
    kinds = set()
    for found in walk_packages(sources.__path__, f"{sources.__name__}."):
        kinds |= {each for each in vars(import_module(found.name)).values() if isinstance(each, type)}
    ours = {k for k in kinds if is_dataclass(k) and (hasattr(k, "read") or hasattr(k, "paint"))}
    assert len(ours) >= 12
    for kind in ours:
        assert as_data._readers(kind)


class Odd:
    """No dataclass."""

    paths = (Path("/x"),)

    def read(self, settings: Any) -> Any: ...


def test_what_no_plan_can_keep_is_one_error() -> None:
    with pytest.raises(UserError, match=r"a plan cannot keep .*Odd"):
        as_data.write(SourceRecord("x", Odd()), as_data.Notation(str, Path, __name__))


@pytest.mark.parametrize(
    "what, moment",
    [
        ("slice=1/2", "open:1-of-2.parquet:1"),
        ("slice=1/2", "os.rename:listed/1-of-2.parquet:1"),
        ("", "open:plan.parquet:1"),
        ("", "os.rename:plan/000000.parquet:1"),
        ("", "os.rename:plan.json:1"),
        ("", "os.rename:plan.json:2"),
    ],
)
def test_killed_at_a_write_the_same_command_goes_on(tmp_path: Path, what: str, moment: str) -> None:
    pictures(tmp_path)
    out, moments = tmp_path / "out", Path(__file__).parents[1] / "system" / "moments.py"
    words = ["recipe=folder", f"recipe.images={tmp_path / 'images'}", "recipe.secret=false", "recipe.shard_size=3"]
    words += ["recipe.name=x", "recipe.burned_in=keep", "workers=1"]
    config = ingest.recipe("folder", images=str(tmp_path / "images"), name="x", **KEYS)
    list_files(config, tmp_path / "whole", 1)
    list_files(config, out, 1, share="2/2")
    if not what:
        list_files(config, out, 1, share="1/2")
    command = [
        sys.executable,
        str(moments),
        "dira_scale.shard",
        "list",
        *words,
        f"out={out}",
        *([what] if what else []),
    ]
    struck = os.environ | {"DIRA_SCALE_TEST_MOMENTS": f"{signal.SIGKILL.value} {moment}"}
    assert subprocess.run(command, env=struck, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    list_files(config, out, 1, share="1/2")
    list_files(config, out, 1)
    plans = [json.loads((folder / ".partial/plan.json").read_text()) for folder in (out, tmp_path / "whole")]
    assert plans[0] == plans[1] and (out / PLAN).read_bytes() == (tmp_path / "whole" / PLAN).read_bytes()
