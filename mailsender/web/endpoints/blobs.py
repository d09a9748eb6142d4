"""What is asked about blobs."""

from __future__ import annotations

from typing import Final

from mailsender.web.endpoints.endpoint import (
    JSON,
    RETRY_AFTER,
    UNAVAILABLE,
    UPLOADED,
    Answer,
    Endpoint,
    Schema,
    problem,
)
from mailsender.web.models import BlobView

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
        late=UPLOADED,
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
        late=UPLOADED,
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
            UNAVAILABLE,
        ),
        slow=True,
    ),
)
