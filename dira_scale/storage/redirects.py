"""The client of HTTP stores: a server that sends the reader elsewhere is not followed beyond its own host.

An address that somebody else has written could otherwise make this machine ask others that only it can reach.
"""

import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientSession, TraceRequestRedirectParams
    from yarl import URL


async def client(**options: Any) -> "ClientSession":
    """As fsspec makes it, but that a request ends with PermissionError where a redirect leaves the host."""
    from aiohttp import ClientSession, TraceConfig

    watch = TraceConfig()
    watch.on_request_redirect.append(_refuse_elsewhere)
    return ClientSession(trace_configs=[watch], **options)


async def _refuse_elsewhere(_session: object, _context: object, request: "TraceRequestRedirectParams") -> None:
    to = request.response.headers.get("Location", "")
    if not _is_same(request.url, request.url.join(type(request.url)(to))):
        request.response.close()
        reason = f"its server redirects to {to}, which is not on its host: name that address if you trust it"
        raise PermissionError(errno.EACCES, reason, str(request.url))


def _is_same(url: "URL", to: "URL") -> bool:
    """Whether it is the same server; https may follow http, at the ports that both have by default."""
    upgraded = (url.scheme, to.scheme) == ("http", "https") and url.is_default_port() and to.is_default_port()
    return to.host == url.host and (upgraded or (to.scheme, to.port) == (url.scheme, url.port))
