from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.cli.health import probe
from mailsender.dev.process import free_port


class _Alive(BaseHTTPRequestHandler):
    """Alive, but not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()
        self.wfile.write(b"ok\n" if self.path == "/healthz" else b"not ready\n")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Alive)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_alive_is_not_yet_ready(port: int) -> None:
    assert probe(port, ready=False) == ""
    assert probe(port, ready=True) == "/readyz answered 503: not ready"


def test_nobody_there() -> None:
    assert "no service answers" in probe(free_port(), ready=False)


def test_the_command_says_why_not_and_by_its_status(port: int) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["health", "--port", str(port), *words])
        return done.exit_code, done.stderr

    assert run() == (0, "")
    assert run("--ready") == (1, "mailsender: /readyz answered 503: not ready\n")
