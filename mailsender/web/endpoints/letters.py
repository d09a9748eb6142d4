"""What is asked about letters: to take them, and what became of them."""

from __future__ import annotations

from typing import Final

from mailsender.intake.idempotency import MAX_KEY
from mailsender.web.endpoints.endpoint import (
    JSON,
    LETTERS_TAKEN,
    RETRY_AFTER,
    UNAVAILABLE,
    Answer,
    Endpoint,
    Schema,
    problem,
)
from mailsender.web.explain_models import ExplainedView
from mailsender.web.models import DryRunView, LetterView, PostedView, SubmittedView

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

_LETTER: Final[Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "24 hexadecimal digits, in any case.",
    "schema": {"type": "string", "pattern": "^[0-9A-Fa-f]{24}$", "maxLength": 24},
}

_NO_LETTER = problem(404, "The queue has no such letter: it never had, has it not yet, or has forgotten it.")

_OF_THE_LETTER: Final = {
    "letter": {
        "operationId": "letter",
        "parameters": {"id": "$response.body#/id"},
        "description": "What became of the letter.",
    }
}

LETTERS: Final = (
    Endpoint(
        method="GET",
        path="/letters/{id}",
        name="letter",
        tag="looking",
        summary="What became of one letter",
        text="Recipient by recipient; without body, subject and token, which may hold secrets.",
        parameters=(_LETTER,),
        answers=(
            Answer(status=200, text="The letter.", content={JSON: LetterView}),
            _NO_LETTER,
            UNAVAILABLE,
        ),
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/letters/{id}/explain",
        name="explain",
        tag="looking",
        summary="Why one letter is where it is",
        text="Which route and relays it takes, and what stands in its way now, as this replica sees it: in"
        " sentences, and for programs. It changes nothing.",
        parameters=(_LETTER,),
        answers=(
            Answer(status=200, text="What there is to say.", content={JSON: ExplainedView}),
            _NO_LETTER,
            UNAVAILABLE,
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
        late=LETTERS_TAKEN,
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
                " stops, the answer comes at once, as with `0`.",
                "schema": {
                    "type": "string",
                    "pattern": r"^(0|([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h|d)){1,5})$",
                },
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
        late=LETTERS_TAKEN,
    ),
)
"""What takes letters, and says what became of them."""
