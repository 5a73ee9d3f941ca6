"""Weights by name through the Hugging Face Hub: huggingface_hub's own code against a server of ours."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from hub_server import TOKEN, Hub, Repository, asked_anew, serving
from huggingface_hub.utils import close_session
from safetensors.torch import save
from train.models.test_classifier import model

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import PATIENCE
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods import build
from dira_scale.train.models import hub as client
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.start import start_weights

NAME, WHERE = "test_resnet", "hf://org/net"
CARD = b"---\nlicense: apache-2.0\n---\n# A card\n"


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(NAME, num_classes=5).eval()


def weights(seed: int = 0) -> bytes:
    return save(network(seed).state_dict())


def encoder() -> Encoder:
    torch.manual_seed(9)
    return architecture(model(NAME)).build_encoder(64).eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the repository org/net: one network and its card."""
    with serving(tmp_path / "cache", monkeypatch) as server:
        server.repositories["org/net"] = Repository()
        server.repositories["org/net"].commit({"model.safetensors": weights(), "README.md": CARD, "model.bin": b"x"})
        yield server


def commit_of(hub: Hub, branch: str = "main") -> str:
    return hub.repositories["org/net"].branches[branch]


def test_a_name_loads_the_very_weights_and_fetches_nothing_but_them_and_the_card(hub: Hub) -> None:
    started, image = encoder(), torch.rand(2, 3, 64, 64)
    start = start_weights(WHERE, started)
    with torch.no_grad():
        torch.testing.assert_close(started(image)[-1], network().forward_features(image), rtol=1e-6, atol=1e-6)
    assert start is not None and start.path.read_bytes() == weights() and start.licence == "apache-2.0"
    assert start.summary.startswith(f"init: {WHERE}: encoder (") and "2 other entries not used: fc." in start.summary
    assert start.summary.endswith("; licence: apache-2.0")
    fetched = [line for line in hub.asked if line.startswith("GET") and not line.startswith("GET /api/")]
    assert [line.rpartition("/")[2] for line in fetched] == ["model.safetensors", "README.md"]


@pytest.mark.parametrize("revision", [None, "dev", "refs/pr/2"])
def test_a_revision_is_pinned_to_its_commit(hub: Hub, revision: str | None) -> None:
    repository = hub.repositories["org/net"]
    if revision:
        repository.commit({"model.safetensors": weights(1), "README.md": CARD}, revision)
    commit, where = commit_of(hub, revision or "main"), f"{WHERE}@{revision}" if revision else WHERE
    pin = client.pinned(where)
    assert pin == f"{WHERE}@{commit}/model.safetensors" + (f":{revision}" if revision else "")
    repository.commit({"model.safetensors": weights(2)}, revision or "main")
    asked_anew()
    assert client.local(pin).read_bytes() == weights(1 if revision else 0)
    assert client.pinned(pin) == pin and client.pinned(where) != pin
    assert client.pinned(f"{WHERE}@{commit}") == f"{WHERE}@{commit}/model.safetensors"


def test_a_run_keeps_the_commit_that_it_recorded(hub: Hub, tmp_path: Path) -> None:
    """It asks for nothing that the cache has. Another revision, repository or file is pinned anew."""
    words = ["data.shards=any", f"run={tmp_path}", f"model.encoder={NAME}"]
    first = compose("pretrain", [*words, f"model.weights={WHERE}"]).model.weights
    assert first == f"{WHERE}@{commit_of(hub)}/model.safetensors"
    (tmp_path / "config.yaml").write_text(f"model:\n  weights: {first}\n")
    hub.repositories["org/net"].commit({"model.safetensors": weights(1)})
    hub.repositories["org/net"].branches["dev"] = commit_of(hub)
    asked_anew()
    hub.asked.clear()
    again = compose("pretrain", [*words, f"model.weights={WHERE}"]).model.weights
    assert again == first and client.local(again).read_bytes() == weights() and hub.asked == []
    other = compose("pretrain", [*words, f"model.weights={WHERE}@dev"]).model.weights
    assert other == f"{WHERE}@{commit_of(hub)}/model.safetensors:dev"
    (tmp_path / "config.yaml").write_text(f"model: {{weights: '{other}'}}\n")
    for typed in (f"{WHERE}@dev", other):
        assert compose("pretrain", [*words, f"model.weights={typed}"]).model.weights == other
    assert compose("pretrain", [*words, f"model.weights={WHERE}"]).model.weights == other.removesuffix(":dev")


def test_pretraining_starts_from_a_name_and_a_plan_asks_nobody(hub: Hub) -> None:
    method = {"_target_": "SimSiam", "dim": 8, "bottleneck": 8}
    made = build(method, {**model(NAME), "weights": WHERE}, ViewSpec(size=64), batch=4)
    assert made.start is not None and made.start.licence == "apache-2.0" and WHERE in made.start.summary
    hub.asked.clear()
    assert compose("plan", [f"model.weights={WHERE}"]).model.weights == WHERE and hub.asked == []


def test_a_file_that_is_not_the_hubs_is_refused(hub: Hub) -> None:
    """Changed on its way, though of the same length, or later in the cache."""
    changed = bytearray(weights())
    changed[-1] ^= 1
    hub.swap[weights()] = bytes(changed)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^hf://org/net: .* is not the file of the Hub, .*; delete it") as error:
            client.local(WHERE)
    hub.swap.clear()
    blob = Path(re.findall(r": (/\S+) is not", str(error.value))[0])
    blob.unlink()
    path = client.local(WHERE)
    assert path.read_bytes() == weights() and path.resolve() == blob
    blob.write_bytes(changed)
    asked_anew()
    with pytest.raises(UserError, match=r"^init: hf://org/net: .* is not the file of the Hub"):
        start_weights(WHERE, encoder())


PATHS = ["../../../../../out", "other", "a" * 39, "A" * 40, ""]
OF_THE_CACHE = {"cache", "hub", "CACHEDIR.TAG", ".locks", "models--org--net", "blobs", "refs", "snapshots", "main",
                "model.safetensors"}  # fmt: skip


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_server_names_no_path(hub: Hub, tmp_path: Path, header: str, status: int) -> None:
    """huggingface_hub makes files of its names: of a commit's also for a file that is not there."""
    where = WHERE if status == 200 else f"{WHERE}/other.safetensors"
    for path in PATHS if header == "X-Repo-Commit" or status == 200 else ():
        hub.headers = {header: path if header == "X-Repo-Commit" else f'"{path}"'}
        with pytest.raises(ValueError, match=r"127.0.0.1 names a (commit|file) '.*', which is no hash: it is no Hub"):
            client.pinned(where)
        made = {path.name for path in tmp_path.rglob("*") if not re.fullmatch(r"[0-9a-f]{40,64}(\.lock)?", path.name)}
        assert made <= OF_THE_CACHE, made
        asked_anew()


@pytest.mark.parametrize("siblings", [3, [3], [{}], [{"rfilename": 3}]])
def test_what_is_no_list_of_files_is_one_line(hub: Hub, siblings: object) -> None:
    hub.siblings = siblings
    with pytest.raises(ValueError, match=r"answers with no list of files: it is no Hub|has no file .safetensors"):
        client.pinned(WHERE)


@pytest.mark.parametrize("where", [WHERE, f"{WHERE}/model.safetensors"])
def test_a_server_that_trickles_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(PATIENCE, "silence", 0.2)
    hub.trickles = True
    with pytest.raises(ValueError, match=r"is not reached \(only \d+ bytes in 0.2 s\)"):
        client.local(where)


def test_which_file_is_loaded(hub: Hub) -> None:
    """An export gives the file with the decoder; others their only one, or the one named; nothing but safetensors."""

    def file(names: list[str], where: str = "hf://org/some") -> str:
        asked_anew()
        hub.repositories["org/some"] = Repository()
        hub.repositories["org/some"].commit({name: name.encode() for name in names})
        return client.local(where).name

    assert file(["model.safetensors", "unet.safetensors", "README.md"]) == "unet.safetensors"
    assert file(["checkpoint_final.pth", "encoder.safetensors", "x.safetensors"]) == "encoder.safetensors"
    assert file(["README.md", "weights/best.safetensors"]) == "best.safetensors"
    with pytest.raises(ValueError, match=r"^hf://\S+: has several files \(a.safetensors, b.safetensors, …\); name one"):
        file(["b.safetensors", "a.safetensors"])
    assert file(["b.safetensors", "a.safetensors"], "hf://org/some/b.safetensors") == "b.safetensors"
    with pytest.raises(
        ValueError, match=r"^hf://\S+: has no file .safetensors, but README.md, pytorch_model.bin; noth"
    ):
        file(["README.md", "pytorch_model.bin"])
    with pytest.raises(ValueError, match=r"^hf://\S+: name a file .safetensors; nothing else is fetched"):
        file(["pytorch_model.bin"], "hf://org/some/pytorch_model.bin")
    assert not hub.fetched(".bin") and not hub.fetched(".pth")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hf://org/none", "no such repository, or shows it to others only: log in"),
        ("hf://org/net@none", "org/net has no such branch, tag or commit"),
        (f"hf://org/net@{'0' * 40}", "org/net has no such branch, tag or commit"),
        ("hf://org/net/none.safetensors", "there is no such file; .*/org/net/tree/main lists them"),
        ("hf://org/secret", "no such repository, or shows it to others only: log in"),
        ("hf://org/gated", "accept the terms at http://127.0.0.1:.*/org/gated, then log in"),
        ("hf://net", "expected hf://ORG/NAME, "),
        ("hf://org/net@", "expected hf://ORG/NAME, "),
        ("hf://org/net:dev", "expected hf://ORG/NAME, "),
        ("hf://org/net@dev/model.safetensors:dev", "expected hf://ORG/NAME, "),
        ("hf://../net@main", "Repo id must"),
        ("hf://org/net/../x.safetensors", "a file's name has no empty part, . or .."),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub: Hub, where: str, message: str) -> None:
    for name, repository in {"org/secret": Repository(private=True), "org/gated": Repository(gated=True)}.items():
        repository.commit({"model.safetensors": weights()})
        hub.repositories[name] = repository
    with pytest.raises(ValueError, match=message) as error:
        client.local(where)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{where}: ")


def test_a_token_opens_what_is_private(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/net"].private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert client.local(WHERE).read_bytes() == weights()


@pytest.mark.parametrize("down", ["offline", "closed", "busy"])
def test_without_the_hub_the_cache_serves_and_says_so(
    hub: Hub, down: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = client.pinned(WHERE)
    if down == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif down == "closed":
        hub.shutdown()
        hub.server_close()
    else:
        monkeypatch.setattr(Hub, "process_request", busy)
    asked_anew()
    close_session()
    assert client.local(WHERE).read_bytes() == weights()
    line = capsys.readouterr().out
    known = f"knew it: model.safetensors of commit {commit_of(hub)}\n"
    assert line.startswith(f"{WHERE}: {hub.address} ") and line.endswith(known)
    assert client.local(pin).read_bytes() == weights() and not capsys.readouterr().out  # as it is recorded
    with pytest.raises(ValueError, match=r"^hf://org/net@dev: .*the cache \S+ does not have it.*: hf download org/ne"):
        client.local(f"{WHERE}@dev")


def busy(server: Hub, request: object, address: object) -> None:
    """Answer that there are too many requests."""
    request.recv(4096)  # type: ignore[attr-defined]
    request.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")  # type: ignore[attr-defined]
    server.shutdown_request(request)  # type: ignore[arg-type]


def test_what_a_card_says_is_one_bounded_line(hub: Hub) -> None:
    evil = b'---\nlicense: other\nlicense_name: "a\\u001b]52;c;b3du\\u0007\\nb ' + b"x" * 10_000 + b'"\n---\n'
    for card in (evil, evil.replace(b"x" * 10_000, b"x")):
        hub.repositories["org/net"].commit({"README.md": card})
        asked_anew()
        start = start_weights(WHERE, encoder())
        assert start is not None and start.licence and start.summary.isprintable() and len(start.summary) < 700
