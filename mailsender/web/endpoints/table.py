"""All endpoints, in the order in which they are described."""

from __future__ import annotations

from typing import Final

from mailsender.web.endpoints.blobs import BLOBS
from mailsender.web.endpoints.codes import CODES
from mailsender.web.endpoints.endpoint import NOTHING
from mailsender.web.endpoints.letters import LETTERS
from mailsender.web.endpoints.lint import LINT
from mailsender.web.endpoints.pages import PAGES
from mailsender.web.endpoints.service import SERVICE, STOPPING
from mailsender.web.endpoints.suppressions import SUPPRESSIONS
from mailsender.web.endpoints.templates import TEMPLATES

ENDPOINTS: Final = SERVICE + LETTERS + STOPPING + LINT + CODES + BLOBS + TEMPLATES + SUPPRESSIONS + PAGES

_FILES: Final = tuple(each for each in ENDPOINTS if each.takes_content or each.lengthy)


def is_public(path: str) -> bool:
    """Whether what is at `path` may be seen without the key."""
    return any(endpoint.public and endpoint.matches(path) for endpoint in ENDPOINTS)


def moves_file(method: str, path: str) -> bool:
    """Whether a file comes to what is at `path`, or goes from there: that takes its time."""
    return any(each.method == method and each.matches(path) for each in _FILES)


def left_behind(method: str, path: str) -> str:
    """What a request may have done that was not answered in time."""
    found = (each.late for each in ENDPOINTS if each.method == method and each.matches(path))
    return next(found, NOTHING)


def is_cheap(path: str) -> bool:
    """Whether what is at `path` is answered however busy the service is."""
    return any(endpoint.cheap and endpoint.matches(path) for endpoint in ENDPOINTS)
