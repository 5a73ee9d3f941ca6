"""``python -m dira_scale.embed``: its rows beside plain timm's, what it resumes and refuses, and the probe of them."""

import io
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from embed.test_maps import recorded_run
from harness import finish
from PIL import Image
from safetensors.torch import save_file
from system.faults import Job, killed_at
from toy_run import COUNTS, ENCODER, train, write
from train.data.volumes import make, plain_view, random_volumes
from train.models.stub3d import TinyEncoder

from dira_scale import api
from dira_scale.base.storage.atomic import machine_tag
from dira_scale.base.storage.owned import MARK
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.parquet import ManifestFile
from dira_scale.embed import main
from dira_scale.judge.evaluation import embeddings as folder
from dira_scale.judge.evaluation.embeddings import Embeddings, part_rows
from dira_scale.probe import main as probe
from dira_scale.train.models.normalise import IMAGENET

ONE = ["threads=1", "data.workers=1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """108 square images: two parts."""
    return write(tmp_path_factory.mktemp("embed") / "shards", width=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("embed") / "demo", seed=0)


@pytest.fixture(scope="module")
def unbroken(shards: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embed") / "out"
    assert main([f"run={run}", f"data.shards={shards}", f"out={out}", *ONE]) == 0
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def decoded(root: Path) -> torch.Tensor:
    """[n, 1, 32, 32], by another library."""
    dataset = ShardedDataset.open(root)
    pictures = [np.asarray(Image.open(io.BytesIO(dataset.read(row)))) for row in range(sum(COUNTS.values()))]
    return torch.from_numpy(np.stack(pictures)[:, None].astype(np.float32) / 4095)


@pytest.mark.parametrize(
    ("encoder", "dtype", "layer"),
    [("test_resnet", "float32", "last"), ("test_vit", "float16", "last"), ("test_vit", "float32", "class+mean")],
)
def test_rows_are_those_of_plain_timm(tmp_path: Path, shards: Path, encoder: str, dtype: str, layer: str) -> None:
    torch.manual_seed(1)
    size = {"img_size": 32} if encoder == "test_vit" else {}
    model = timm.create_model(encoder, num_classes=0, **size).eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    words = [f"init={tmp_path / 'mine.safetensors'}", f"model.encoder={encoder}", "data.size=32", f"dtype={dtype}"]
    out = tmp_path / "out"
    assert main([*words, "normalise=imagenet", f"data.shards={shards}", f"out={out}", f"layer={layer}", *ONE]) == 0

    table = pq.read_table(out)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET.values())
    with torch.inference_mode():
        maps = model.forward_features((decoded(shards) - mean) / deviation)
    expected = maps[:, model.num_prefix_tokens :].mean(1) if encoder == "test_vit" else maps.mean((2, 3))
    if layer == "class+mean":
        expected = torch.cat([maps[:, 0], expected], 1)
    values = np.stack(table["embedding"].to_numpy())
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=1e-4 if dtype == "float32" else 2e-3, atol=1e-5)
    manifest = pq.read_table(shards / "manifest.parquet")
    assert all(table[name] == manifest[name] for name in ("key", "patient", "split"))
    assert table["labels"].to_pylist()[0][1:] == [pytest.approx(np.nan, nan_ok=True), 0.0]
    assert table.column_names == ["key", "patient", "split", "labels", "embedding"]
    about = json.loads((out / "_embedding.json").read_text())
    assert (about["name"], about["weights"]["encoder"], about["size"]) == ("mine.safetensors", encoder, [32, 32])
    assert about["mean"] == pytest.approx(IMAGENET["mean"]) and str(tmp_path) not in json.dumps(about)


def test_volumes_are_embedded_by_the_toy_network(tmp_path: Path) -> None:
    volumes = random_volumes(5)
    toy = make(tmp_path / "toy", volumes, splits=["train", "val"] * 2 + ["train"])
    torch.manual_seed(0)
    encoder = TinyEncoder(4).eval()
    run = recorded_run(tmp_path, encoder, "data.size=[16,16,12]", "data.range=[-500,500]")
    assert main([f"run={run}", f"data.shards={toy.root}", "data.split=val", f"out={tmp_path / 'out'}", *ONE]) == 0
    whole = [plain_view(volume, (0, 0, 0, *volume.shape), (False,) * 3, (16, 16, 12)) for volume in volumes[1::2]]
    with torch.inference_mode():
        maps = encoder(torch.from_numpy(np.clip((np.stack(whole)[:, None] + 500) / 1000, 0, 1)).float())
    embeddings = Embeddings.open(tmp_path / "out")
    assert embeddings.column("key").tolist() == ["v1", "v3"] and embeddings.splits == ["val"]
    assert embeddings.about.window == [-500, 500]
    np.testing.assert_allclose(embeddings.values, maps[-1].mean((2, 3, 4)), atol=1e-3)


def test_a_run_and_its_export_have_the_same_rows(unbroken: Path, run: Path, shards: Path, tmp_path: Path) -> None:
    exported = api.export(run, {"out": str(tmp_path / "export"), "formats": "timm"})
    keys = {"init": str(exported), "model.encoder": ENCODER, "data.size": 32, "threads": 1}
    out = api.embed(tmp_path / "out", shards, keys)
    np.testing.assert_array_equal(Embeddings.open(out).values, Embeddings.open(unbroken).values)
    hashes = [json.loads((each / "_embedding.json").read_text())["weights"]["hash"] for each in (out, unbroken)]
    assert hashes[0] == hashes[1]


def test_parts_depend_on_the_dataset_alone_and_those_of_large_maps_are_small() -> None:
    assert [part_rows(rows) for rows in (1, 108, 30_000, 10_000_000)] == [64, 64, 118, 4096]
    assert [part_rows(10_000, row_bytes) for row_bytes in (0, 2**20, 2**30)] == [64, 64, 1]


def test_a_signal_keeps_finished_parts_and_the_same_command_makes_the_others(
    unbroken: Path, run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out, write_part = tmp_path / "out", folder.write_part

    def stopped(*arguments) -> None:
        write_part(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(folder, "write_part", stopped)
    words = [f"run={run}", f"data.shards={shards}", f"out={out}", *ONE]
    assert main(words) == 75
    assert "SIGTERM: 64 of 108 rows are kept; the same command continues" in capsys.readouterr().err
    assert sorted(files(out)) == [MARK, "_embedding.json", "part-000000.parquet"]
    with pytest.raises(api.UserError, match="has 1 of 2 parts: the command of embed that began it makes the others"):
        Embeddings.open(out)
    monkeypatch.setattr(folder, "write_part", write_part)
    (out / "part-000000.parquet").write_bytes(b"PAR1 garbage")  # a damaged one is made again
    (out / f".part-000001.parquet.{machine_tag()}.{2**22 + 1}.2.tmp").touch()  # of a process that was killed
    assert main(words) == 0
    assert files(out) == files(unbroken)


def test_slices_make_every_nth_part_and_read_only_its_rows(
    unbroken: Path, run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words, read = [f"run={run}", f"data.shards={shards}", f"out={tmp_path / 'out'}", *ONE], []
    at = ManifestFile.at
    monkeypatch.setattr(
        ManifestFile, "at", lambda self, columns, rows: read.append(len(rows)) or at(self, columns, rows)
    )
    monkeypatch.setattr(ManifestFile, "table", None)
    assert main([*words, "slice=2/3"]) == 0
    assert f"slice 2/3 of {tmp_path / 'out'} is made" in capsys.readouterr().out
    assert [*(tmp_path / "out").glob("part*")] == [tmp_path / "out" / "part-000001.parquet"] and read == [44]
    assert main([*words, "slice=3/3"]) == 0 and read == [44]  # there are two parts
    assert main(words) == 0 and read == [44, 64] and files(tmp_path / "out") == files(unbroken)


def test_a_folder_of_other_rows_is_refused_by_name(unbroken: Path, run: Path, shards: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", names=["bright"], width=32)
    before = files(unbroken)
    for words, message in (
        (["stage=di"], r"out=.* has other rows: weights\.step is 5, not 3; name another folder, or remove it"),
        (["layer=2"], "has other rows: level is 5, not 2"),
        (["data.split=val"], "has other rows: data.split is all, not val"),
        ([f"data.shards={other}"], r"has other rows: dataset\.label_names is \['bright', 'coin', 'never'\]"),
    ):
        keys = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in [*ONE, *words])}
        with pytest.raises(api.UserError, match=message.replace("data.split", "split")):
            api.embed(unbroken, keys.pop("data.shards", shards), {"run": str(run), **keys})
    assert files(unbroken) == before


def test_unreadable_images_are_counted_and_named(unbroken: Path, run: Path, tmp_path: Path, capsys) -> None:
    root, out = write(tmp_path / "cut", width=32), tmp_path / "out"
    dataset = ShardedDataset.open(root)
    content = bytearray((root / "all.tar").read_bytes())
    for row in (3, 7):
        content[int(dataset.column("offset")[row]) + 90] ^= 1
    (root / "all.tar").write_bytes(content)
    assert main([f"run={run}", f"data.shards={root}", f"out={out}", *ONE]) == 2
    error = capsys.readouterr().err
    first = f"{root}: sample 3 (shard all.tar, offset 5773) cannot be read: checksum"
    assert f"2 images cannot be read, the first: {first}" in error
    assert sorted(files(out)) == [MARK, "_embedding.json", "part-000001.parquet"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the weights by one of run=… and init=…"),
        (["run={run}", "init=random"], "name the weights by one of run=… and init=…, not both"),
        (["init=random"], "model.encoder must be given with init=random"),
        (["run={run}", "model.encoder=resnet18"], "model.encoder=resnet18: the run has test_resnet"),
        (["run={run}", "data.split=tset"], "data.split=tset: {shards} has train, val, test, all; did you mean 'test'?"),
        (["run={run}", "layer=[1,2]"], "layer=[1, 2]: expected one: a folder has one level"),
        (["run={run}", "layer=class"], "layer=class: test_resnet has 1, 2, 3, 4, 5 and last"),
        (["run={run}", "layer=7"], "layer=7: test_resnet has 1, 2, 3, 4, 5 and last"),
        (["run=/nowhere"], "run=/nowhere is not a run folder"),
        (["run={run}", "dtype=int8"], "dtype=int8: expected float32 or float16"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, run: Path, shards: Path, tmp_path: Path, capsys) -> None:
    given = [word.format(run=run) for word in words]
    assert main([*given, f"data.shards={shards}", f"out={tmp_path / 'out'}", *ONE]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "weights of demo at step" not in line]
    assert len(error) == 1 and message.format(shards=shards) in error[0]
    assert not (tmp_path / "out").exists()


def test_the_probe_of_embeddings_is_that_of_the_run_without_its_images(
    unbroken: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    quick = ["c=[1.0]", "fractions=[1.0]"]
    direct, stored = tmp_path / "direct", tmp_path / "stored"
    assert probe([f"run={run}", f"data.shards={shards}", f"out={direct}", "random_encoders=1", *quick]) == 0
    assert main(["init=random", f"model.encoder={ENCODER}", "data.size=32", f"data.shards={shards}",
                 f"out={tmp_path / 'random'}", *ONE]) == 0  # fmt: skip
    words = [f"embeddings=[{unbroken},{tmp_path / 'random'}]", f"out={stored}"]
    assert probe([*words, *quick, "probes=[linear,knn]"]) == 0
    figures = []
    for out in (direct, stored):
        rows = json.loads((out / "probe.json").read_text())["figures"]
        figures.append([row for row in rows if row["encoder"] in ("demo", "random")])
    assert {row["encoder"] for row in figures[1]} == {"demo", "random"}
    assert figures[1] == figures[0]


def test_embeddings_stand_alone_and_are_of_the_same_images(
    unbroken: Path, run: Path, shards: Path, tmp_path: Path, capsys
) -> None:
    assert probe([f"embeddings={unbroken}", f"data.shards={shards}"]) == 2
    assert f"data.shards={shards} beside embeddings=…: these have features already" in capsys.readouterr().err
    assert main([f"run={run}", f"data.shards={shards}", "data.split=val", f"out={tmp_path / 'val'}", *ONE]) == 0
    assert probe([f"embeddings=[{unbroken},{tmp_path / 'val'}]"]) == 2
    assert "are of different images (Toy, all; Toy, val)" in capsys.readouterr().err
    assert probe([f"embeddings={shards}"]) == 2
    assert "has no _embedding.json: name a folder that embed wrote" in capsys.readouterr().err
    assert probe([]) == 2
    assert "data.shards must be given: data.shards=…, or embeddings=…" in capsys.readouterr().err


@pytest.mark.system
def test_two_processes_and_a_killed_one_write_the_same_files(
    unbroken: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    def words(out: Path) -> list[str]:
        return ["-m", "dira_scale.embed", f"run={run}", f"data.shards={shards}", f"out={out}", *ONE]

    pair, killed = tmp_path / "pair", tmp_path / "killed"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    finish([*launcher, *words(pair)])
    assert files(pair) == files(unbroken)
    command, environment = killed_at([sys.executable, *words(killed)], "os.rename:/part-000001.parquet:1")
    with Job(command, killed, **environment) as job:
        assert job.end() == -signal.SIGKILL, job.printed
    assert {"part-000000.parquet"} == {path.name for path in killed.glob("part*")} and any(killed.glob(".part*"))
    finish([*launcher, *words(killed)])
    assert files(killed) == files(unbroken)
