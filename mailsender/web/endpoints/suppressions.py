"""What is asked about the suppression list."""

from __future__ import annotations

from typing import Any, Final

from mailsender.web.endpoints.endpoint import (
    JSON,
    NOT_READ,
    RETRY_AFTER,
    UNAVAILABLE,
    Answer,
    Endpoint,
    Schema,
    problem,
)
from mailsender.web.suppression_models import (
    MOST,
    ImportedView,
    LiftedView,
    SuppressedView,
    SuppressionsIn,
    SuppressionsView,
)

CSV: Final = "text/csv"

_ADDRESS: Final[Schema] = {
    "name": "address",
    "in": "path",
    "required": True,
    "description": "An address, or `@` and a domain.",
    "schema": {"type": "string", "maxLength": 400},
}
LONGEST_STREAM: Final = 100
"""Characters: some entries of before have more than a letter's stream can have, and are to be found."""

_STREAM: Final[dict[str, Any]] = {
    "name": "stream",
    "in": "query",
    "description": "Entries for this stream; empty: those that hold for all letters. Without it: all.",
    "schema": {"type": "string", "maxLength": LONGEST_STREAM},
}
_OF: Final[Schema] = {
    "name": "address",
    "in": "query",
    "description": "What holds for this address: its own entries and its domain's. Or for `@` and a domain.",
    "schema": {"type": "string", "maxLength": 254},
}
_AFTER: Final[Schema] = {
    "name": "after",
    "in": "query",
    "description": "The `next` of the page before.",
    "schema": {"type": "string", "maxLength": 400 + LONGEST_STREAM},
}
_LIMIT: Final[Schema] = {
    "name": "limit",
    "in": "query",
    "description": "Entries on the page.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 100},
}
_FILE: Final[Schema] = {
    "type": "string",
    "description": "Columns `address`, `stream`, `reason`, `source`, `since` and `until`, in any order where"
    " the first row names them; the first one is enough. `until` may be `never`.",
}
_BAD_QUERY: Final = problem(400, "A parameter cannot be understood.")
_BUSY: Final = problem(
    503, "`reason` says why: `busy`, when two files are under way already, or `unavailable`.", RETRY_AFTER
)
_PUT_AGAIN: Final = "Entries may have been put on the list; to repeat it changes nothing more."

SUPPRESSIONS: Final = (
    Endpoint(
        method="GET",
        path="/suppressions",
        name="suppressions",
        tag="suppression",
        summary="Who is on the suppression list",
        text="Entries that hold now, by address.",
        parameters=(_OF, _STREAM, _AFTER, _LIMIT),
        answers=(
            Answer(status=200, text="A page of it.", content={JSON: SuppressionsView}),
            _BAD_QUERY,
            UNAVAILABLE,
        ),
        slow=True,
    ),
    Endpoint(
        method="POST",
        path="/suppressions",
        name="suppress",
        tag="suppression",
        summary="Put addresses on the suppression list",
        text="What is not sent yet is not sent to them any more. All entries are put there, or none.",
        takes=SuppressionsIn,
        answers=(
            Answer(status=200, text="They are on it.", content={JSON: SuppressedView}),
            problem(400, "An entry is wrong, which `detail` names, or the body is. Nothing was changed."),
            *NOT_READ,
            UNAVAILABLE,
        ),
        slow=True,
        late=_PUT_AGAIN,
    ),
    Endpoint(
        method="POST",
        path="/suppressions/import",
        name="import_suppressions",
        tag="suppression",
        summary="Put the addresses of a file on the suppression list",
        text="The file is read as it comes, and rows that are wrong are passed over. To send it again changes"
        " nothing more. An empty one puts nothing there.",
        takes={CSV: _FILE},
        needs_body=False,
        answers=(
            Answer(status=200, text="What became of its rows.", content={JSON: ImportedView}),
            problem(
                400,
                "The body could not be read; rows that came before may be on the list. Or, with"
                " `bad-suppression`, a column is named twice; nothing was put there.",
            ),
            *NOT_READ,
            _BUSY,
        ),
        slow=True,
        lengthy=True,
        late=_PUT_AGAIN,
    ),
    Endpoint(
        method="GET",
        path="/suppressions/export",
        name="export_suppressions",
        tag="suppression",
        summary="The suppression list as a file",
        text="Entries that hold now, as `POST /suppressions/import` takes them. A connection that breaks off"
        " means that the file is not whole.",
        parameters=(_STREAM,),
        answers=(
            Answer(status=200, text="The file.", content={CSV: {"type": "string"}}),
            _BAD_QUERY,
            _BUSY,
        ),
        slow=True,
        lengthy=True,
    ),
    Endpoint(
        method="DELETE",
        path="/suppressions/{address}",
        name="lift",
        tag="suppression",
        summary="Take an address off the suppression list",
        text="Whatever put it there; what a relay refuses from now on may put it there again.",
        parameters=(_ADDRESS, _STREAM),
        answers=(
            Answer(status=200, text="It was on it.", content={JSON: LiftedView}),
            _BAD_QUERY,
            problem(404, "It is not on it. `reason` is `still-suppressed` where another entry holds for it."),
            UNAVAILABLE,
        ),
        slow=True,
        late="It may have been taken off the list.",
    ),
)
