"""Faust's web server on a socket that listens already: two processes that start together never choose one port."""

import logging
import socket
from typing import Any

from aiohttp.web import SockSite, TCPSite

log = logging.getLogger(__name__)


def serve_on(app: Any, listener: socket.socket) -> None:
    """Let an application that is not started yet serve its web views there."""
    web = app.web
    host, port = listener.getsockname()[:2]
    chosen = app.conf.web_bind, app.conf.web_port

    def site() -> SockSite | TCPSite:
        if (app.conf.web_bind, app.conf.web_port) != chosen:  # by an option of `faust worker`
            listener.close()
            return web._new_transport_tcp()  # type: ignore[no-any-return]
        log.info("web views at http://%s:%d/", host, port)
        return SockSite(web._runner, listener)

    web._transport_handlers["tcp"] = site
