"""Checks of servers' answers to huggingface_hub: names must be hexadecimal, and no answer may trickle for ever.

The library joins a server's ETag and commit to the cache's paths; with ``..`` in them files would be made anywhere.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from etils.epy import lazy_imports

from dira_scale.base.storage.streams import steady

with lazy_imports():
    import huggingface_hub
    from huggingface_hub.utils import _http

COMMIT, CONTENT = "X-Repo-Commit", ("X-Linked-Etag", "ETag")  # of files in large storage the first
ID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # a SHA-1 of git, or a SHA-256


@cache
def checked_client() -> None:
    """Let huggingface_hub ask through clients that look at each answer before the library does."""

    def client() -> Any:
        checked = _http.default_client_factory()
        checked.event_hooks = {**checked.event_hooks, "response": [check_names, _require_steady]}
        return checked

    huggingface_hub.set_client_factory(client)


def check_names(answer: Any) -> None:
    """Raise ValueError where an answer about a file names its commit or content by anything but a hash."""
    if answer.request.method != "HEAD":
        return
    named = [] if answer.is_error else [answer.headers[name] for name in CONTENT if name in answer.headers]
    content = next(iter(named), "0" * 40)  # of an error it is that of its text, which the library does not use
    for what, name in (("commit", answer.headers.get(COMMIT, "0" * 40)), ("file", content)):
        if not ID.fullmatch(name.removeprefix("W/").strip('"')):
            raise ValueError(f"{answer.request.url.host} names a {what} {name[:40]!r}, which is no hash: it is no Hub")


def _require_steady(answer: Any) -> None:
    """Raise TimeoutError later, while the answer's content is read, where too little of it comes."""
    library: Any = import_module(type(answer).__module__.partition(".")[0])  # httpx2, or httpx of older versions

    class Steady(library.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            return steady(self.stream)

        def close(self) -> None:
            self.stream.close()

    answer.stream = Steady(answer.stream)
