"""On which port `mailsender dev` puts the service, and which ports its parts get."""

from __future__ import annotations

import socket

import pytest

from mailsender.dev.process import LOOPBACK, ChildError, free_port
from mailsender.dev.stack import _http_port


def test_the_port_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        free = bound.getsockname()[1]
    monkeypatch.setenv("HTTP_PORT", str(free))
    assert _http_port() == free


def test_one_that_is_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        bound.listen()
        port = bound.getsockname()[1]
        monkeypatch.setenv("HTTP_PORT", str(port))
        with pytest.raises(ChildError, match=f"HTTP_PORT: port {port} is in use"):
            _http_port()


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", "8000.0", "٨"])
def test_what_is_no_port_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HTTP_PORT", text)
    with pytest.raises(ChildError, match="HTTP_PORT is no port of 1 to 65535"):
        _http_port()


def test_without_one_it_is_the_first_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", " ")
    assert 8000 <= _http_port() < 8100


def test_nobody_gets_a_port_that_another_one_was_given() -> None:
    """Who got it may not listen there yet: two listeners of one broker had the same."""
    given = [free_port() for _ in range(300)]
    assert len(set(given)) == len(given)
