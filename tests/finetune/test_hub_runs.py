"""From a run to the Hub, and from there into the next run, which keeps the commit that it began with."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from finetune.conftest import TINY
from hub_server import TOKEN, Hub, Repository, asked_anew, serving
from huggingface_hub.utils import close_session
from safetensors.torch import load_file, save_file

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.storage.owned import MARK
from dira_scale.export import main as export
from dira_scale.finetune import main
from dira_scale.train.models import hub as client
from dira_scale.train.models.architecture import ARCHITECTURE
from dira_scale.train.runs.reader import RunReader

ADOPTED = ["validate.norm_passes=0", *(word for word in TINY if not word.startswith("model."))]
PUSHED = {".gitattributes", ".dira_scale.json", "README.md", "config.json", "model.safetensors"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, and a token that may write."""
    with serving(tmp_path / "cache", monkeypatch) as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def log(run: Path) -> str:
    return (run / "log.txt").read_text()


@pytest.mark.usefixtures("libraries")
def test_an_export_is_pushed_and_the_next_run_starts_from_it(
    hub: Hub, discs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, where = tmp_path / "first", tmp_path / "second", "hf://org/mine"
    assert main([*TINY, "task=labels", f"data.shards={discs}", f"run={first}", "steps=1"]) == 0
    assert export([f"run={first}", "formats=huggingface", f"push={where}"]) == 0
    repository = hub.repositories["org/mine"]
    commit, here = repository.branches["main"], first / "export"
    assert repository.private and len(repository.commits) == 2  # that which made it, and the export
    assert repository.commits[commit].keys() == PUSHED
    assert all(repository.commits[commit][name] == (here / name).read_bytes() for name in PUSHED - {".gitattributes"})
    said = capfd.readouterr()
    assert f"{hub.address}/org/mine: private, commit {commit}; init={where}@{commit} starts from it" in said.out
    assert TOKEN not in said.out + said.err and not any(TOKEN in file.read_text() for file in first.glob("*.*"))

    words = [*ADOPTED, "task=labels", f"data.shards={discs}", f"run={second}"]
    assert main([*words, f"init={where}", "steps=1"]) == 0
    reader = RunReader(second)
    pin = f"{where}@{commit}/model.safetensors"
    assert reader.config["init"] == reader.description.network.start == pin
    assert reader.config["model"]["encoder"] == "test_resnet"  # the network is the export's, as of a folder
    assert f"init: {pin}: encoder (" in log(second)
    assert reader.description.network.licence == "none"  # that of the discs
    assert "not checkable: init=hf://" in log(second)

    other = load_file(here / "model.safetensors")
    (tmp_path / "other.safetensors").write_bytes(client.local(where).read_bytes()[:-4] + b"\0\0\0\0")
    assert other.keys() == load_file(tmp_path / "other.safetensors").keys()
    moved = repository.commit({"model.safetensors": (tmp_path / "other.safetensors").read_bytes()})
    monkeypatch.delenv("HF_TOKEN")  # so that a private repository answers nothing
    asked_anew()
    hub.asked.clear()
    assert main([*words, f"init={where}", "steps=2"]) == 0 and hub.asked == []
    assert RunReader(second).config["init"] == pin and RunReader(second).status()["step"] == 2
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    capfd.readouterr()
    assert main([*words, f"init={where}@{moved}", "steps=3"]) == 2
    assert f"init: {pin} -> {where}@{moved}/model.safetensors" in capfd.readouterr().err

    assert export([f"run={second}", "formats=huggingface"]) == 0
    card = (second / "export/README.md").read_text()
    assert f"starting from `{pin}`" in card and "license_name" in yaml.safe_load(card.split("---")[1])


def test_a_strangers_architecture_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may not read this user's environment."""
    node = {"_target_": "TimmUNet", "encoder": "resnet18", "arguments": {"x": "${oc.env:HOME}"}}
    save_file({"x": torch.zeros(1)}, tmp_path / "net.safetensors", {ARCHITECTURE: json.dumps(node)})
    assert main(["task=labels", "data.shards=any", f"init={tmp_path}/net.safetensors", f"run={tmp_path}/run"]) == 2
    assert "its architecture has an interpolation" in capsys.readouterr().err


def test_a_later_push_leaves_no_weights_of_the_former_one(hub: Hub, tmp_path: Path) -> None:
    """And none that were private are added to a repository that everybody can read."""
    for name in ("a.safetensors", "README.md", MARK):
        (tmp_path / name).write_text(name)
    hub.repositories["org/mine"] = Repository()
    given = tmp_path, ["a.safetensors", "README.md"], {"unet.safetensors"}
    hub.repositories["org/mine"].commit({"unet.safetensors": b"old", "NOTES.md": b"kept"})
    with pytest.raises(
        ValueError, match=r"^hf://org/mine: .* has files that no export has written, such as NOTES.md; name another"
    ):
        client.push("hf://org/mine", *given, private=False)
    first = hub.repositories["org/mine"].commit({MARK: b"{}"})
    with pytest.raises(
        ArgumentError, match=r"^private: expected false, .* everybody can read http://.*/org/mine, got T"
    ):
        client.push("hf://org/mine", *given, private=True)
    assert hub.repositories["org/mine"].branches["main"] == first
    assert ": public, commit " in client.push("hf://org/mine", *given, private=False)
    files = hub.repositories["org/mine"].commits[hub.repositories["org/mine"].branches["main"]]
    given_and_kept = {name: name.encode() for name in ("a.safetensors", "README.md", MARK)} | {"NOTES.md": b"kept"}
    assert files == given_and_kept


def test_a_push_that_fails_says_what_to_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    given = "hf://org/mine", tmp_path, list[str](), set[str]()
    (tmp_path / MARK).touch()
    with pytest.raises(ValueError, match=r"^hf://org/mine: http://\S+ refuses \(Invalid .*\): log in "):
        client.push(*given, private=True)
    hub.shutdown()
    hub.server_close()
    close_session()
    with pytest.raises(ValueError, match=rf"is not reached \(.*refused\); the export is in {tmp_path}, the same comm"):
        client.push(*given, private=True)
    assert export(["run=any", "push=hf://org/mine@dev"]) == 2
    assert "push: hf://org/mine@dev: a commit is added to the repository's branch main" in capsys.readouterr().err
