"""Serves a page that refreshes itself, to this machine alone, while what it shows changes. Nothing is written.

Any program of this machine, and any web page in its browser, can ask a local port. So an address without the token is
refused, which only the terminal has seen, and a host that is not this one: a page elsewhere may give its own name the
address 127.0.0.1 (DNS rebinding). What is asked for is compared with the one address; no file is looked up by it.
"""

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import gethostname
from threading import Lock
from typing import Any

from dira_scale.base.errors import UserError

State = tuple[Any, Callable[[], str]]  # what a page depends on, and what makes it
HOST = re.compile(r"(localhost|127\.0\.0\.1)(:[0-9]+)?", re.IGNORECASE)
EVERY, SHARE = 10, 10  # seconds between two requests of a page: at least so many, and so many times what making it took
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """A page, made again when what it depends on has changed, on a port that is free. A browser keeps connections open
    on which it asks nothing, so each has a thread."""

    def __init__(self, look: Callable[[], State]) -> None:
        """Raises what the first look and page raise: a name that was mistyped is no page."""
        self._look, self._lock, self.every, self.path = look, Lock(), EVERY, f"/{secrets.token_urlsafe(24)}"
        self._made_of, make = look()
        self._text = make()
        super().__init__(("127.0.0.1", 0), Handler)

    def text(self) -> str:
        """The page as of now; while it cannot be made, as when a file is damaged, why."""
        with self._lock:
            begun = time.monotonic()
            try:
                state, make = self._look()
                if not self._text or state != self._made_of:
                    self._text, self._made_of = make(), state
            except (UserError, OSError) as error:  # such as a file that another machine replaces
                self._text = ""
                return f"<!doctype html><title>dira_scale</title><p>Not yet: {escape(str(error))}</p>"
            finally:
                self.every = max(EVERY, round(SHARE * (time.monotonic() - begun)))
            return self._text


class Handler(BaseHTTPRequestHandler):
    """Answers GET of the one address; the base class refuses other methods (501)."""

    server: Server
    timeout = 30  # seconds that a client may take to ask
    server_version, sys_version = "dira_scale", ""

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            self.send_error(403, "this page is for its own machine: ask localhost")
        elif not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            self.send_error(403, "the address has no token, or another: open the one that report has printed")
        else:
            body = self.server.text().encode()
            headers = {**HEADERS, "Refresh": self.server.every, "Content-Length": len(body)}
            with suppress(ConnectionError, TimeoutError):  # the reader has gone
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not even the terminal is written to at each request."""


def serve(look: Callable[[], State]) -> None:
    """Print the address of the page and serve it until Ctrl-C. Raises UserError if there is nothing to show.

    ``look``: gives what the page depends on, and what makes it; called at each request.
    """
    with Server(look) as server:
        port = server.server_port
        with suppress(KeyboardInterrupt):
            print(f"report: http://127.0.0.1:{port}{server.path} until Ctrl-C", flush=True)
            print(f"from another machine, before: ssh -N -L {port}:127.0.0.1:{port} {gethostname()}", flush=True)
            server.serve_forever()
    print("\nreport: stopped")
