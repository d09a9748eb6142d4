"""What an endpoint is, and what the answers of several have in common.

Nothing here knows aiohttp. What all endpoints have in common (the key, the bound on requests under way) is
worked out from `Endpoint.public`, `Endpoint.cheap` and `Endpoint.slow`, by `middleware` and by `openapi`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from mailsender.web.models import Problem

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
TEXT: Final = "text/plain"
OPENMETRICS: Final = "application/openmetrics-text"

NOTHING: Final = "Nothing was changed."
LETTERS_TAKEN: Final = (
    "Letters of this request may have been taken; to repeat it safely give each letter an ID of its own."
)
UPLOADED: Final = "It may have been stored, wholly or in part; to repeat it is safe."
"""What may be so after a request that was not answered in time."""

Schema = Mapping[str, Any]

LINE: Final[Schema] = {"type": "string"}
"""Of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One status that an endpoint may answer with.

    `content` maps a media type to the model, or the schema, of what comes in it; `other` is a second form
    that its JSON may have. `headers` says what each of them means. `links` are OpenAPI's: what of this
    answer another operation takes.
    """

    status: int
    text: str
    content: Mapping[str, type[BaseModel] | Schema]
    other: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method at one path.

    `name` is that of the handler, and the operation's. `public` endpoints need no key; `cheap` ones ask
    nobody and hold nothing, so they are answered however busy the service is; a `slow` one waits for the
    outside world and may run out of time. `takes` is the model of its body, or maps media types to schemas;
    one that does not `needs_body` does without, too. One that `takes_content` takes a file as its body, and
    time for it; a `lengthy` one has that, too: its body, or its answer, is a file. `late` says what it may
    have done when it did not answer in time.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    name: str
    tag: str
    summary: str
    text: str = ""
    answers: tuple[Answer, ...]
    parameters: tuple[Schema, ...] = ()
    takes_batch: bool = False
    takes_letter: bool = False
    takes: type[BaseModel] | Mapping[str, Schema] | None = None
    needs_body: bool = True
    takes_content: bool = False
    public: bool = False
    cheap: bool = False
    slow: bool = False
    lengthy: bool = False
    late: str = NOTHING

    def matches(self, path: str) -> bool:
        """Whether `path` is this endpoint's."""
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self.path))
        return re.fullmatch(pattern, path) is not None


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with problem details."""
    return Answer(status=status, text=text, content={PROBLEM: Problem}, headers=headers or {})


RETRY_AFTER: Final = {"Retry-After": "Seconds after which another attempt makes sense."}

UNAVAILABLE = problem(
    503,
    "`reason` says why: `busy` or `unavailable`. Another replica may answer, or this one later.",
    RETRY_AFTER,
)
"""Of what is looked up in MongoDB."""

NOT_READ: Final = (
    problem(408, "The body did not arrive in time. The connection is closed."),
    problem(413, "The body is too large: than HTTP_MAX_BYTES, or than such a request may be."),
    problem(415, "The body is compressed; it is taken only as it is."),
    problem(417, "`Expect` asks for something else than `100-continue`."),
)
"""Of a body that is not taken, whatever it says."""
