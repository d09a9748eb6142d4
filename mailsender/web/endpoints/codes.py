"""What is asked about confirmation codes."""

from __future__ import annotations

from typing import Final

from mailsender.web.code_models import CodeIn, CodeView, GuessIn, VerdictView
from mailsender.web.endpoints.endpoint import JSON, NOT_READ, RETRY_AFTER, Answer, Endpoint, problem

_NO_CODES: Final = problem(404, "The service makes no codes: CODE_SECRET is not set.")

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
            *NOT_READ,
            problem(
                429,
                "As many codes as are allowed were made for this address, or by this caller.",
                RETRY_AFTER,
            ),
            _NO_CODES,
            problem(503, "As of `POST /post`. No code was made that would be right.", RETRY_AFTER),
        ),
        slow=True,
        late="A code may have been made and sent.",
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
            *NOT_READ,
            _NO_CODES,
            problem(503, "MongoDB is away. A right code may have been used up.", RETRY_AFTER),
        ),
        slow=True,
        late="It may have counted as a try.",
    ),
)
