"""A real HTTP server for tests, in threads of the test's process: counts what it serves and fails as it is told."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """What the server did, and what it is to do.

    Attributes:
        served: bytes of the bodies sent, by the file's name; ``asked``: requests; ``starts``: first bytes asked for.
        ranges: whether it knows ranged requests.
        faults: by file name, what to do with its next requests instead of answering: a status to answer with,
            ``("cut", n)``: only n bytes of the body; ``("slow", n, seconds)``: n bytes, then a pause, and so on;
            ``("wrong",)``: one byte changed; ``("to", url)``: a redirect. The last one stays if ``forever``.
    """

    url: str
    ranges: bool = True
    forever: bool = False
    served: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    starts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[str, list[object]] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(root: Path) -> Iterator[Served]:
    """A server of the files below ``root``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        state = Served(f"http://127.0.0.1:{server.server_port}")
        server.root, server.state, server.guard = root, state, threading.Lock()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state: Served = self.server.state  # type: ignore[attr-defined]
        path = Path(self.server.root) / self.path.lstrip("/")  # type: ignore[attr-defined]
        with self.server.guard:  # type: ignore[attr-defined]
            state.requested[path.name] += 1
            waiting = state.faults.get(path.name, [])
            fault = (waiting[0] if state.forever and len(waiting) == 1 else waiting.pop(0)) if waiting else None
        if isinstance(fault, tuple) and fault[0] == "to":
            return self._refuse(302, fault[1])
        if isinstance(fault, int) or not path.is_file():
            return self._refuse(fault if isinstance(fault, int) else 404)
        content, start = path.read_bytes(), 0
        if state.ranges and (requested := self.headers["Range"]):
            first, _, last = requested.removeprefix("bytes=").partition("-")
            start, content = int(first), content[: int(last) + 1 if last else None]
        state.starts[path.name].append(start)
        self._send(content, start, fault or ("plain",), path.name)

    def _refuse(self, status: int, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, start: int, fault: object, name: str) -> None:
        kind, *numbers = fault  # type: ignore[misc]
        state: Served = self.server.state  # type: ignore[attr-defined]
        body = bytearray(content[start:])
        if kind == "wrong":
            body[len(body) // 2] ^= 1
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "cut":
            body, self.close_connection = body[: numbers[0]], True
        step = numbers[0] if kind == "slow" else max(1, len(body))
        with suppress(OSError):  # the client went away
            for first in range(0, len(body), step):
                self.wfile.write(body[first : first + step])
                with self.server.guard:  # type: ignore[attr-defined]
                    state.served[name] += len(body[first : first + step])
                if kind == "cut":
                    state.closing.wait(0.05)  # until the client has read it
                if kind == "slow" and state.closing.wait(numbers[1]):
                    return

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""
