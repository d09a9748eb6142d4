"""Whether the service on this machine answers: what a container's health check asks.

Only the standard library's client: this runs every few seconds, and other clients take longer to import than
to answer.
"""

from __future__ import annotations

import http.client

TIMEOUT = 4.0
"""Seconds; health checks of containers are usually given five."""


def probe(port: int, *, ready: bool, host: str = "127.0.0.1", timeout: float = TIMEOUT) -> str:
    """Ask ``/healthz`` (or ``/readyz``) at `host`: empty when all is well, else why not."""
    path = "/readyz" if ready else "/healthz"
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"no service answers on port {port}: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"{path} answered {answer.status}: {said}"
