"""Weights in and out by name through the Hugging Face Hub: ``hf://ORG/NAME[@REVISION][/FILE]``.

A revision is pinned to the commit that it is when a run begins, and the pin is recorded: ``hf://ORG/NAME@COMMIT/FILE``,
with ``:REVISION`` behind it where one was named. Only safetensors and the card are fetched, into the Hub's own cache.
"""

import errno
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from etils.epy import lazy_imports
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.border import at
from dira_scale.base.errors import local_rank, print_line
from dira_scale.base.storage.owned import MARK
from dira_scale.train.models.hub_client import checked_client
from dira_scale.train.runs.files import read_yaml

with lazy_imports():
    import huggingface_hub
    from huggingface_hub import constants, errors

CARD = "README.md"
SUFFIX = ".safetensors"
# Of an exported folder, the first that is there: those with a decoder before those without.
EXPORTED = (
    "unet.safetensors", "plain_network.safetensors", "monai_swinunetr.safetensors", "checkpoint_final.pth",
    "encoder.safetensors", "plain_encoder.safetensors", "model.safetensors",
)  # fmt: skip
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[\w.-]+|[^\s/@:]+))?"
    r"(?:/(?P<file>[^\s@:]+)(?::(?P<named>\S+))?)?"
)
_COMMIT = re.compile("[0-9a-f]{40}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class NotReachedError(Exception):
    """The Hub does not answer, or has no time to."""


class Address(NamedTuple):
    """``named``: the revision that was asked for, behind a pin."""

    repository: str
    revision: str | None
    file: str | None
    named: str | None

    @classmethod
    def of(cls, where: str) -> "Address":
        """Raises ValueError for what is no address, or one of other than safetensors."""
        match = _ADDRESS.fullmatch(where)
        if match is None or (match["named"] and not _COMMIT.fullmatch(match["revision"] or "")):
            raise ValueError(f"{where}: expected hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME/FILE")
        if not {"", ".", ".."}.isdisjoint((match["file"] or "file").split("/")):
            raise ValueError(f"{where}: a file's name has no empty part, . or ..")
        if match["file"] and not match["file"].endswith(SUFFIX):
            raise ValueError(f"{where}: name a file {SUFFIX}; nothing else is fetched, as it can hold code")
        return cls(**match.groupdict())

    @property
    def pinned(self) -> bool:
        return bool(self.file and _COMMIT.fullmatch(self.revision or ""))

    def is_of(self, asked: "Address") -> bool:
        """Return whether this pin is one of what was ``asked`` for."""
        same = self.repository == asked.repository and asked.file in (None, self.file)
        return self.pinned and same and asked.revision in (self.named, self.revision)


def is_hub(where: object) -> TypeGuard[str]:
    return isinstance(where, str) and where.startswith("hf://")


def name_of(where: str) -> str:
    """Return the name of weights in texts: an address, or the last part of a path."""
    return where if is_hub(where) else Path(where).name


def pin(config: DictConfig, key: str) -> None:
    """Pin the address at ``key``, if it is one, as the run in the folder ``run`` has recorded it, or as it is now.

    Raises UserError naming ``key``, as :func:`pinned`.
    """
    if not is_hub(where := OmegaConf.select(config, key)):
        return
    run = Path(str(OmegaConf.select(config, "run") or "")).expanduser()
    recorded = [file for file in (run / "config.yaml", *run.glob("rates/*/config.yaml")) if file.is_file()]
    # Not by OmegaConf, which would evaluate what a copied file interpolates.
    tree: Any = read_yaml(recorded[0]) if recorded else {}
    before = reduce(_inside, key.split("."), tree)
    with at(key):
        kept = is_hub(before) and Address.of(before).is_of(Address.of(where))
        OmegaConf.update(config, key, before if kept else pinned(where))


def _inside(node: Any, part: str) -> Any:
    if isinstance(node, list) and part.isdigit():
        return node[int(part)] if int(part) < len(node) else None
    return node.get(part) if isinstance(node, dict) else None


@cache  # a sweep asks once
def pinned(where: str) -> str:
    """Return an address with its commit and file; where the Hub does not answer, as the cache last knew it. Paths stay.

    Raises ValueError: no such repository, revision or safetensors, or neither Hub nor cache has it.
    """
    if not is_hub(where) or (asked := Address.of(where)).pinned:
        return where
    repository, revision = asked.repository, asked.revision
    try:
        with _answered(where):
            file = asked.file or _chosen(_names(repository, revision))
            commit = _fetch(repository, file, revision).parents[file.count("/")].name
    except NotReachedError as error:
        # The cache's folder of the commit that the revision was when it was last fetched.
        candidates = [asked.file] if asked.file else [CARD, *EXPORTED]
        cached = (
            (name, huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)) for name in candidates
        )
        folders = (Path(path).parents[name.count("/")] for name, path in cached if isinstance(path, str))
        if (folder := next(folders, None)) is None:
            raise _not_here(where, error) from error
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        with _answered(where):
            file = asked.file or _chosen(names)
        commit = folder.name
        if not local_rank():
            print_line(f"{where}: {error}; taken as the cache last knew it: {file} of commit {commit}")
    return f"hf://{repository}@{commit}/{file}" + (f":{revision}" if revision not in (None, commit) else "")


@cache  # a checksum takes seconds
def local(where: str) -> Path:
    """Return the path that ``where`` names: of an address, the file in the cache, with the card beside it.

    The first process of those that share a cache fetches the file, the others wait at its lock. Nothing is asked of the
    Hub where the cache has what is pinned. Raises ValueError as :func:`pinned`, and for a file that is not the Hub's.
    """
    if not is_hub(where):
        return Path(where)

    address = Address.of(pinned(where))
    file = str(address.file)
    try:
        with _answered(where):
            cached = huggingface_hub.try_to_load_from_cache(address.repository, file, revision=address.revision)
            path = Path(cached) if isinstance(cached, str) else _fetch(address.repository, file, address.revision)
    except NotReachedError as error:
        raise _not_here(where, error) from error
    expected = path.readlink().name if path.is_symlink() else ""  # as the Hub names its large files: by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", expected) and _sha256(path) != expected:
        raise ValueError(
            f"{where}: {path.resolve()} is not the file of the Hub, whose SHA-256 begins with {expected[:12]}: "
            "it was damaged or changed on its way or since; delete it and run the same again"
        )
    return path


def weights_fact(where: str | None, key: str) -> dict[str, str]:
    """Return what the file at ``key`` contains, which must be the same on all processes; nothing of a folder."""
    path = local(where) if where else None
    return {f"the file {key}": _sha256(path)[:12]} if path and path.is_file() else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push(where: str, folder: Path, files: Sequence[str], other: Collection[str], private: bool) -> str:
    """Commit ``files`` of ``folder`` to the repository ``where``, made if there is none; return a line that says so.

    Files there whose names are in ``other`` are removed in the same commit. Raises ValueError: the Hub refuses, is not
    reached, or shows to everybody what is to be ``private``; or others' files are there.
    """
    repository, api = Address.of(where).repository, huggingface_hub.HfApi()
    try:
        with _answered(where):
            address = api.create_repo(repository, private=private, exist_ok=True)
            info = api.model_info(repository)
            if private and not info.private:
                raise ArgumentError("private", private, f"false, or another repository: everybody can read {address}")
            there = {file.rfilename for file in info.siblings or ()} - {".gitattributes"}
            if there and MARK not in there:
                foreign = f"{address} has files that no export has written, such as {min(there)}"
                raise ValueError(f"{foreign}; name another repository")
            add = [huggingface_hub.CommitOperationAdd(name, folder / name) for name in (*files, MARK)]
            remove = [huggingface_hub.CommitOperationDelete(name) for name in sorted(there & {*other})]
            commit = api.create_commit(
                repository, [*add, *remove], commit_message="Export by dira_scale", parent_commit=info.sha
            )
    except NotReachedError as error:
        raise ValueError(f"{where}: {error}; the export is in {folder}, the same command tries again") from error
    pinned.cache_clear()
    local.cache_clear()
    line = f"{address}: {'private' if info.private else 'public'}, commit {commit.oid}"
    starts = any(name.endswith(SUFFIX) for name in files)
    return f"{line}; init=hf://{repository}@{commit.oid} starts from it" if starts else line


def _chosen(names: Collection[str]) -> str:
    """Return the file to load, of those of a repository. Raises ValueError if there is none, or several."""
    if exported := [name for name in EXPORTED if name in names and name.endswith(SUFFIX)]:
        return exported[0]
    files = sorted(name for name in names if name.endswith(SUFFIX))
    if len(files) == 1:
        return files[0]
    have = ", ".join(sorted(files or names)[:4]) or "nothing"
    if files:
        raise ValueError(f"has several files ({have}, …); name one: hf://ORG/NAME/FILE")
    raise ValueError(
        f"has no file {SUFFIX}, but {have}; nothing else is fetched, as other formats can hold code: "
        f"fetch it yourself if you trust it, and name the file"
    )


def _names(repository: str, revision: str | None) -> list[str]:
    """Return the names of a repository's files. Raises ValueError for an answer that does not list them."""
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return [str(file.rfilename) for file in info.siblings or ()]
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{constants.ENDPOINT} answers with no list of files: it is no Hub") from error


def _fetch(repository: str, file: str, revision: str | None) -> Path:
    """Return the path of the file in the cache, fetched with the card. The cache notes which commit a branch is."""
    path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    with suppress(errors.EntryNotFoundError):
        huggingface_hub.hf_hub_download(repository, CARD, revision=path.parents[file.count("/")].name)
    return path


def _not_here(where: str, error: Exception) -> ValueError:
    asked, cache = Address.of(where), constants.HF_HUB_CACHE
    revision = f" --revision {asked.revision}" if asked.revision else ""
    return ValueError(
        f"{where}: {error}, and the cache {cache} does not have it; where there is a network: hf download "
        f"{asked.repository} {asked.file or 'FILE' + SUFFIX} {CARD}{revision}; then copy the folder "
        f"models--{asked.repository.replace('/', '--')} of its cache into {cache} here"
    )


@contextmanager
def _answered(where: str) -> Iterator[None]:
    """Turn what the Hub refuses into ValueError, one line that begins with ``where``, as does every ValueError of the
    block; and no answer into NotReachedError."""
    checked_client()
    hub, login = constants.ENDPOINT, "log in (hf auth login) or set HF_TOKEN"
    page = f"{hub}/{Address.of(where).repository}"
    refusals: dict[type[Exception], str] = {  # the first that fits
        errors.RevisionNotFoundError: f"{page} has no such branch, tag or commit; name another",
        errors.GatedRepoError: f"accept the terms at {page}, then {login}",
        errors.RemoteEntryNotFoundError: f"there is no such file; {page}/tree/main lists them",
        errors.RepositoryNotFoundError: f"{hub} has no such repository, or shows it to others only: {login}",
    }
    try:
        yield
    except ArgumentError:
        raise
    except errors.HfHubHTTPError as error:
        code, reason = error.response.status_code, error.server_message or "no reason given"
        refusal = next((text for kind, text in refusals.items() if isinstance(error, kind)), "")
        if refusal or code in (401, 403):
            raise ValueError(f"{where}: {refusal or f'{hub} refuses ({reason}): {login}'}") from error
        raise NotReachedError(f"{hub} answers {code} ({reason})") from None
    except ValueError as error:  # such as a name or a card that the Hub does not take
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    except (OSError, RuntimeError, errors.HTTPError) as error:  # of sockets, of Xet, and of httpx
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            unwritten = f"{error}: the Hub's cache {constants.HF_HUB_CACHE} cannot be written"
            raise ValueError(f"{where}: {unwritten}; make room, or set HF_HOME to another folder") from error
        cause = error.__cause__ or error
        raise NotReachedError(f"{hub} is not reached ({[*str(cause).splitlines(), type(cause).__name__][0]})") from None
