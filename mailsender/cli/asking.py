"""The running service that commands talk to: where it is, and what it answers.

An address and a key come from options, else from what the service's own settings say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mailsender.cli.terminal import error_document, fail
from mailsender.settings.sources import SettingsError, place, read

if TYPE_CHECKING:
    from mailsender.cli.client import ServiceClient

T = TypeVar("T")

PASSING: Final = 5.0
"""Seconds that what is asked in passing may take."""

STATE: Final = Path(".dev")
"""Where `mailsender dev` keeps its state, and says where its parts listen."""


def ask(
    url: str | None,
    key: str,
    question: Callable[[ServiceClient], Coroutine[Any, Any, dict[str, Any]]],
    *,
    as_json: bool,
) -> dict[str, Any]:
    """The service's answer; when there is none, the command ends with the reason."""
    from mailsender.cli.client import ServiceClient, ServiceError  # noqa: PLC0415  brings in aiohttp

    try:
        where = (url or "").strip() or _dev_url() or _own_url()
        key = key.strip() or read(["http_api_key"]).get("http_api_key", "")
        return asyncio.run(question(ServiceClient(url=where, key=key)))
    except ServiceError as error:
        fail(str(error), document=error_document(str(error), error.problem) if as_json else None)
    except SettingsError as error:
        fail(str(error), status=2, document=error_document(str(error)) if as_json else None)


def asked_in_passing(
    url: str | None, key: str, question: Callable[[ServiceClient], Coroutine[Any, Any, T]]
) -> T | None:
    """What a service answers that need not be there; None where none does, soon."""
    from mailsender.cli.client import ServiceClient, ServiceError  # noqa: PLC0415  brings in aiohttp

    try:
        where = (url or "").strip() or _dev_url() or _own_url()
        key = key.strip() or read(["http_api_key"]).get("http_api_key", "")
        return asyncio.run(question(ServiceClient(url=where, key=key, timeout=PASSING)))
    except (ServiceError, SettingsError):
        return None


def _dev_url() -> str | None:
    """The address of the service that `mailsender dev` runs from this directory, if it does.

    Raises:
        ServiceError: what it left there cannot be read.
    """
    from mailsender.cli.client import ServiceError  # noqa: PLC0415  brings in aiohttp

    path = STATE / "endpoints.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["http"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        text = f"{path} cannot be read ({reason}); remove it, or say where with --url"
        raise ServiceError(text) from error
    return str(found)


def _own_url() -> str:
    """The address of the service that has the settings of this command's surroundings."""
    host, port = place()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
