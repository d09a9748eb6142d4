"""What is asked before something is sent."""

from __future__ import annotations

from typing import Final

from mailsender.web.endpoints.endpoint import JSON, LINE, NOT_READ, Answer, Endpoint, Schema, problem
from mailsender.web.lint_models import LintView

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
            "message/rfc822": LINE,
        },
        answers=(
            Answer(status=200, text="What was found.", content={JSON: LintView}),
            problem(400, "It is neither letters nor a message, or `bulk` cannot be understood."),
            *NOT_READ,
        ),
        slow=True,
    ),
)
