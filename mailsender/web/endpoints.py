"""Every endpoint, once: the routes and their description are both made from this list.

Nothing here knows aiohttp. What all endpoints have in common (the key, the bound on requests under way) is
worked out from `Endpoint.public`, `Endpoint.cheap` and `Endpoint.slow`, by `middleware` and by `openapi`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from mailsender.intake.idempotency import MAX_KEY
from mailsender.web.code_models import CodeIn, CodeView, GuessIn, VerdictView
from mailsender.web.lint_models import LintView
from mailsender.web.models import (
    BlobView,
    Drain,
    DryRunView,
    LetterView,
    PostedView,
    Problem,
    StatusView,
    SubmittedView,
)
from mailsender.web.template_models import (
    PreviewIn,
    PreviewView,
    SavedView,
    TemplateFilesView,
    TemplateIn,
    TemplatesView,
)

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
TEXT: Final = "text/plain"
OPENMETRICS: Final = "application/openmetrics-text"

Schema = Mapping[str, Any]

_LINE: Final[Schema] = {"type": "string"}


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
    outside world and may run out of time. `takes` is the model of its body, or maps media types to schemas.
    One that `takes_content` takes a file as its body, and time for it.
    """

    method: Literal["GET", "POST", "PUT"]
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
    takes_content: bool = False
    public: bool = False
    cheap: bool = False
    slow: bool = False

    def matches(self, path: str) -> bool:
        """Whether `path` is this endpoint's."""
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self.path))
        return re.fullmatch(pattern, path) is not None


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with problem details."""
    return Answer(status=status, text=text, content={PROBLEM: Problem}, headers=headers or {})


RETRY_AFTER: Final = {"Retry-After": "Seconds after which another attempt makes sense."}

_UNAVAILABLE = problem(
    503,
    "`reason` says why: `busy` or `unavailable`. Another replica may answer, or this one later.",
    RETRY_AFTER,
)

_NOT_POSTED = problem(
    503,
    "`reason` says why. With `draining` or `starting`, `no-broker`, `queue-full` and `busy` nothing was"
    " taken; another replica may take it, or this one later. With `forbidden` Kafka does not let us write to"
    " the topic until somebody allows it; with `unconfirmed` it may have been stored: post the same letters"
    " with the IDs that `ids` gives them, and none is sent twice.",
    RETRY_AFTER,
)

_DRY_RUN: Final[Schema] = {
    "name": "dry_run",
    "in": "query",
    "description": "With true nothing is published, whatever the state of the service: the answer says what"
    " would become of each letter, with the messages that would be sent. What is wrong in a letter is told in"
    " the answer.",
    "schema": {"type": "boolean", "default": False},
}

_RECORD_KEY: Final[Schema] = {
    "name": "key",
    "in": "query",
    "description": "The record's key, which each report brings back; at most 1024 bytes of UTF-8."
    " Without it, or when it is empty, a random one of 16 characters.",
    "schema": {"type": "string", "maxLength": 1024},
}

_OF_THE_LETTER: Final = {
    "letter": {
        "operationId": "letter",
        "parameters": {"id": "$response.body#/id"},
        "description": "What became of the letter.",
    }
}

SERVICE: Final = (
    Endpoint(
        method="GET",
        path="/",
        name="greet",
        tag="looking",
        summary="Name, version and state in one line",
        answers=(Answer(status=200, text="One line.", content={TEXT: _LINE}),),
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        name="healthz",
        tag="probes",
        summary="Whether the process works",
        answers=(Answer(status=200, text="It does.", content={TEXT: {"const": "ok\n"}}),),
        public=True,
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        name="readyz",
        tag="probes",
        summary="Whether the service does its work",
        text="Why it does not is for `/status`, which wants the key.",
        answers=(
            Answer(status=200, text="It does.", content={TEXT: {"const": "ok\n"}}),
            Answer(status=503, text="It does not.", content={TEXT: {"const": "not ready\n"}}),
        ),
        public=True,
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/status",
        name="status",
        tag="looking",
        summary="What the service is doing, in numbers",
        answers=(Answer(status=200, text="The numbers.", content={JSON: StatusView}),),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        name="metrics",
        tag="looking",
        summary="The metrics, for Prometheus",
        text="In its text format, or as OpenMetrics where `Accept` asks for that. With HTTP_METRICS_PORT they"
        " are there, too, and want no key.",
        answers=(Answer(status=200, text="The metrics.", content={TEXT: _LINE, OPENMETRICS: _LINE}),),
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/letters/{id}",
        name="letter",
        tag="looking",
        summary="What became of one letter",
        text="Recipient by recipient; without body, subject and token, which may hold secrets.",
        parameters=(
            {
                "name": "id",
                "in": "path",
                "required": True,
                "description": "24 hexadecimal digits, in any case.",
                "schema": {"type": "string", "pattern": "^[0-9A-Fa-f]{24}$", "maxLength": 24},
            },
        ),
        answers=(
            Answer(status=200, text="The letter.", content={JSON: LetterView}),
            problem(404, "The queue has no such letter: it never had, has it not yet, or has forgotten it."),
            _UNAVAILABLE,
        ),
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/post",
        name="post",
        tag="sending",
        summary="Publish a batch of letters",
        text=(
            "The body is published to the in-topic as one record, with an `ID` written into each letter that"
            " has none. The Content-Type is ignored. With one bad letter nothing is published."
        ),
        parameters=(_RECORD_KEY, _DRY_RUN),
        answers=(
            Answer(
                status=200,
                text="Where it landed, and the letters' IDs. They are in the queue a moment later.",
                content={JSON: PostedView},
                other=DryRunView,
                links={
                    "letter": {
                        "operationId": "letter",
                        "parameters": {"id": "$response.body#/ids/0"},
                        "description": "What became of the first letter.",
                    }
                },
            ),
            problem(
                400,
                "No batch, or some of its letters are wrong: `errors` has the place of each fault. Or a"
                " parameter that cannot be understood.",
            ),
            problem(408, "The body did not arrive in time. The connection is closed."),
            problem(413, "The body is larger than HTTP_MAX_BYTES, or than the broker takes in one record."),
            problem(415, "The body is compressed; it is taken only as it is."),
            problem(417, "`Expect` asks for something else than `100-continue`."),
            _NOT_POSTED,
        ),
        takes_batch=True,
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/letters",
        name="submit",
        tag="sending",
        summary="Publish one letter, and wait for what becomes of it",
        text=(
            "The letter is published to the in-topic as a batch of its own, with an `ID`. It comes as JSON,"
            " whatever the Content-Type, or as multipart/form-data: the part `letter` is its JSON, and each"
            " part with a file name becomes one of its attachments. With `wait` the answer is what became of"
            " it, where that is known in time."
        ),
        parameters=(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The letter's `IdempotencyKey`: whoever repeats the request with it has the"
                " letter sent once. It may be quoted; beyond ASCII it is UTF-8.",
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_KEY,
                    "pattern": "^[!#-~]([ -~]*[!-~])?$",
                },
            },
            {
                "name": "wait",
                "in": "query",
                "description": "How long to wait for what becomes of the letter, such as `10s`: at most as"
                " long as a request may take (HTTP_TIMEOUT). Where too many wait already, or the service"
                " stops, the answer comes at once.",
                "schema": {"type": "string", "pattern": "^[0-9]{1,6}(ms|s|m)$"},
            },
            _RECORD_KEY,
            _DRY_RUN,
        ),
        answers=(
            Answer(
                status=200,
                text="It was sent to one recipient at least, after a `wait`: `recipients` has all of them.",
                content={JSON: LetterView},
                other=DryRunView,
            ),
            Answer(
                status=202,
                text="It was taken, and what becomes of it is not known yet.",
                content={JSON: SubmittedView},
                headers={"Location": "Where to ask what became of it."},
                links=_OF_THE_LETTER,
            ),
            problem(
                400,
                "No letter, or something in it is wrong: `errors` has the place of each fault. Or a form that"
                " is broken, or a parameter that cannot be understood.",
            ),
            problem(408, "The body did not arrive in time. The connection is closed."),
            problem(
                413,
                "The body is larger than HTTP_MAX_BYTES, or its record than the broker takes; files count"
                " in base64 there.",
            ),
            problem(415, "The body is compressed; it is taken only as it is."),
            problem(417, "`Expect` asks for something else than `100-continue`."),
            problem(
                422,
                "After a `wait`: it was not sent. With `refused`, `detail` has the relay's words, or ours"
                " where no relay decided, and `letter` what became of it. With `duplicate-id` another letter,"
                " with other content, had its ID or its key before.",
            ),
            _NOT_POSTED,
        ),
        takes_letter=True,
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/halt",
        name="halt",
        tag="stopping",
        summary="Begin the drain",
        text="Called again, it says how far the drain is. At its end the process exits.",
        answers=(Answer(status=200, text="It has begun.", content={JSON: Drain}),),
        cheap=True,
    ),
)
"""What is asked of the service."""

_NOT_READ: Final = (
    problem(408, "The body did not arrive in time. The connection is closed."),
    problem(413, "The body is too large: than HTTP_MAX_BYTES, or than such a request may be."),
    problem(415, "The body is compressed; it is taken only as it is."),
    problem(417, "`Expect` asks for something else than `100-continue`."),
)
_NO_CODES: Final = problem(404, "The service makes no codes: CODE_SECRET is not set.")

_ANY_LETTER: Final[Schema] = {
    "type": "object",
    "description": "A letter, as of `POST /post`; what is wrong with it is told in a finding.",
}

LINT: Final = (
    Endpoint(
        method="POST",
        path="/lint",
        name="lint",
        tag="sending",
        summary="What mailbox providers would mind",
        text=(
            "Nothing is sent, and nobody is asked. The body is a batch, one letter, or a finished message, as"
            " in an .eml file: what begins with `[` or `{` is JSON, whatever the Content-Type."
        ),
        parameters=(
            {
                "name": "bulk",
                "in": "query",
                "description": "Whether it is bulk mail, such as a newsletter. Without it, Precedence, List-"
                " headers and the number of recipients tell.",
                "schema": {"type": "boolean"},
            },
        ),
        takes={
            JSON: {"anyOf": [{"type": "array", "minItems": 1, "items": _ANY_LETTER}, _ANY_LETTER]},
            "message/rfc822": _LINE,
        },
        answers=(
            Answer(status=200, text="What was found.", content={JSON: LintView}),
            problem(400, "It is neither letters nor a message, or `bulk` cannot be understood."),
            *_NOT_READ,
        ),
        slow=True,
    ),
)
"""What is asked before something is sent."""

CODES: Final = (
    Endpoint(
        method="POST",
        path="/codes",
        name="make_code",
        tag="codes",
        summary="Make a confirmation code and send it",
        text="The code stands in the letter alone. The answer is the same whatever becomes of the letter.",
        takes=CodeIn,
        answers=(
            Answer(status=202, text="It was published.", content={JSON: CodeView}),
            problem(400, "The request, or the letter that it makes, is wrong. No code was made."),
            *_NOT_READ,
            problem(
                429,
                "As many codes as are allowed were made for this address, or by this caller.",
                RETRY_AFTER,
            ),
            _NO_CODES,
            problem(503, "As of `POST /post`. No code was made that would be right.", RETRY_AFTER),
        ),
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/codes/check",
        name="check_code",
        tag="codes",
        summary="Whether a code is right, and use it up",
        text="Of several that ask at once with the right code one is told so.",
        takes=GuessIn,
        answers=(
            Answer(status=200, text="What it is.", content={JSON: VerdictView}),
            problem(400, "The request is wrong; nothing was tried."),
            *_NOT_READ,
            _NO_CODES,
            problem(503, "MongoDB is away. A right code may have been used up.", RETRY_AFTER),
        ),
        slow=True,
    ),
)
"""What is asked about confirmation codes."""

UPLOAD_OFFSET: Final = "Upload-Offset"
"""The header that says how much of an upload is there, as in the IETF's draft on resumable uploads."""

_REF: Final[Schema] = {
    "name": "ref",
    "in": "path",
    "required": True,
    "description": "`sha256:` and the SHA-256 of the content, 64 hexadecimal digits in lower case.",
    "schema": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$", "maxLength": 71},
}
_RANGE: Final[Schema] = {
    "name": "Content-Range",
    "in": "header",
    "description": "`bytes FIRST-LAST/SIZE`, where FIRST is what `Upload-Offset` said and LAST the last byte:"
    " the rest of an upload that broke off (RFC 9110 §14.5).",
    "schema": {"type": "string", "pattern": "^bytes [0-9]{1,15}-[0-9]{1,15}/[0-9]{1,15}$"},
}

_STORED: Final = (
    Answer(status=200, text="It is stored; `ref` is what a letter names it by.", content={JSON: BlobView}),
    problem(408, "The body did not go on in time. The connection is closed; what came can be resumed."),
    problem(413, "The body is larger than BLOB_MAX_BYTES."),
    problem(415, "The body is compressed; it is taken only as it is."),
    problem(417, "`Expect` asks for something else than `100-continue`."),
    problem(
        503,
        "`reason` says why: `store-full`, `busy`, `unavailable`, `draining` or `starting`. Another replica"
        " may take it, or this one later.",
        RETRY_AFTER,
    ),
)

BLOBS: Final = (
    Endpoint(
        method="PUT",
        path="/blobs",
        name="put_blob",
        tag="sending",
        summary="Store the content of an attachment",
        text="The body is the content, whatever its Content-Type. The same content is stored once. It is kept"
        " for BLOB_RETENTION, and for as long as a letter names it.",
        answers=(*_STORED, problem(400, "The body could not be read.")),
        takes_content=True,
        slow=True,
    ),
    Endpoint(
        method="PUT",
        path="/blobs/{ref}",
        name="resume_blob",
        tag="sending",
        summary="Store a content whose hash is known, or the rest of it",
        text="Where it is there already the body is not read. An upload that broke off can be resumed for"
        f" some hours: GET says in `{UPLOAD_OFFSET}` how many bytes are there, and `Content-Range` says which"
        " come now.",
        parameters=(_REF, _RANGE),
        answers=(
            *_STORED,
            problem(400, "No such `ref` or `Content-Range` can be, or the body could not be read."),
            problem(
                409,
                f"Other bytes are there than those before the first one: `{UPLOAD_OFFSET}` says how many. Or"
                " somebody else goes on with the same upload.",
                {UPLOAD_OFFSET: "How many bytes are there."},
            ),
            problem(422, "The content has another hash. Nothing of it is kept."),
        ),
        takes_content=True,
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/blobs/{ref}",
        name="blob",
        tag="looking",
        summary="Whether a content is there, and until when",
        parameters=(_REF,),
        answers=(
            Answer(status=200, text="It is there.", content={JSON: BlobView}),
            problem(
                404,
                f"It is not. `{UPLOAD_OFFSET}` says how much of an upload is there that can be resumed.",
                {UPLOAD_OFFSET: "How many bytes are there."},
            ),
            _UNAVAILABLE,
        ),
        slow=True,
    ),
)
"""What is asked about blobs."""

_TEMPLATE: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The template's name.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "maxLength": 64},
}
_VERSION: Final[dict[str, Any]] = {
    "name": "version",
    "in": "query",
    "description": "Without it: the newest one.",
    "schema": {"type": "string", "maxLength": 64},
}
_LANG: Final[dict[str, Any]] = {
    "name": "lang",
    "in": "query",
    "description": "The reader's language, such as `ru` or `pt-BR`.",
    "schema": {"type": "string", "maxLength": 64},
}
_CHECK: Final[dict[str, Any]] = {
    "name": "check",
    "in": "query",
    "description": "`true` saves nothing, and answers all the same.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}

_STORE_AWAY: Final = problem(503, "`reason` says why: `busy` or `unavailable`.", RETRY_AFTER)
_NO_TEMPLATE: Final = problem(404, "There is no such template, or not in this version.")
_BAD_TEMPLATE: Final = problem(
    400,
    "No template, or it cannot be filled in: `faults` has each fault with its file, line and variable. Or the"
    " body is not what is taken.",
)
TEMPLATES: Final = (
    Endpoint(
        method="GET",
        path="/templates",
        name="templates",
        tag="templates",
        summary="All templates",
        answers=(Answer(status=200, text="They, by name.", content={JSON: TemplatesView}), _STORE_AWAY),
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/templates/{name}",
        name="template",
        tag="templates",
        summary="The files of one template",
        parameters=(_TEMPLATE, _VERSION),
        answers=(
            Answer(status=200, text="As they were saved.", content={JSON: TemplateFilesView}),
            _NO_TEMPLATE,
            _STORE_AWAY,
        ),
        slow=True,
    ),
    Endpoint(
        method="PUT",
        path="/templates/{name}",
        name="put_template",
        tag="templates",
        summary="Save a template as its newest version",
        text="It is prepared (MJML becomes HTML, styles go into the elements), compiled, and filled in with"
        " its sample in each of its languages; with a fault nothing is saved. Letters find it within seconds."
        " A version never changes; the same files again are no new one.",
        parameters=(_TEMPLATE, _CHECK),
        takes=TemplateIn,
        answers=(
            Answer(status=200, text="Its version.", content={JSON: SavedView}),
            _BAD_TEMPLATE,
            problem(409, "TEMPLATES_DIR has a template of this name, which comes first."),
            *_NOT_READ,
            _STORE_AWAY,
        ),
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/templates/{name}/preview",
        name="preview_template",
        tag="templates",
        summary="What a template makes of variables",
        text="Nothing is sent. Without a body it is filled in with its sample.",
        parameters=(_TEMPLATE,),
        takes=PreviewIn,
        answers=(
            Answer(status=200, text="The letter.", content={JSON: PreviewView}),
            _BAD_TEMPLATE,
            _NO_TEMPLATE,
            *_NOT_READ,
            _STORE_AWAY,
        ),
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/templates/{name}/preview",
        name="preview_page",
        tag="templates",
        summary="What a template makes of its sample, as a page",
        text="The HTML, or the text where it has none. No script runs in it.",
        parameters=(_TEMPLATE, _VERSION, _LANG),
        answers=(
            Answer(
                status=200,
                text="The page.",
                content={"text/html": {"type": "string"}, "text/plain": {"type": "string"}},
            ),
            _BAD_TEMPLATE,
            _NO_TEMPLATE,
            _STORE_AWAY,
        ),
        slow=True,
    ),
)
"""What is asked about templates."""

FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""What the page of the description is made of, with the media type of each."""

PAGES: Final = (
    Endpoint(
        method="GET",
        path="/openapi.json",
        name="openapi",
        tag="documentation",
        summary="This description",
        answers=(Answer(status=200, text="OpenAPI 3.1.", content={JSON: {"type": "object"}}),),
        public=True,
    ),
    Endpoint(
        method="GET",
        path="/docs",
        name="page",
        tag="documentation",
        summary="This description as a page",
        answers=(Answer(status=200, text="The page.", content={"text/html": _LINE}),),
        public=True,
    ),
    Endpoint(
        method="GET",
        path="/docs/{file}",
        name="file",
        tag="documentation",
        summary="What the page is made of",
        parameters=(
            {
                "name": "file",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(FILES)},
            },
        ),
        answers=(
            Answer(
                status=200,
                text="The file.",
                content={media: {} if media == "image/png" else _LINE for media in FILES.values()},
            ),
            problem(404, "There is no such file."),
        ),
        public=True,
    ),
)
"""What describes it."""

ENDPOINTS: Final = SERVICE + LINT + CODES + BLOBS + TEMPLATES + PAGES


def is_public(path: str) -> bool:
    """Whether what is at `path` may be seen without the key."""
    return any(endpoint.public and endpoint.matches(path) for endpoint in ENDPOINTS)


def is_upload(method: str, path: str) -> bool:
    """Whether a file is put to what is at `path`: that takes its time."""
    return any(each.takes_content and each.method == method and each.matches(path) for each in BLOBS)


def is_cheap(path: str) -> bool:
    """Whether what is at `path` is answered however busy the service is."""
    return any(endpoint.cheap and endpoint.matches(path) for endpoint in ENDPOINTS)
