"""How a letter looks to an operator."""

from __future__ import annotations

from typing import Any

from mailsender.letter import Letter, Recipient


def letter_view(letter: Letter) -> dict[str, Any]:
    """What became of `letter`, recipient by recipient.

    Neither body nor subject nor token: a one-time code stands as readily in a subject as in a body.
    """
    first = letter.answers[0]
    origin = first.origin
    return {
        "id": letter.id,
        "status": str(letter.status),
        "attempts": letter.attempts,
        "reason": letter.reason,
        "relay": letter.relay,
        "message_id": letter.message_id,
        "finished_at": letter.finished_at,
        "recipients": [recipient_view(recipient) for recipient in letter.recipients],
        "publishers": len(letter.answers),
        "reported": letter.status.final and letter.answered >= len(letter.answers),
        "adopted": letter.adopted,
        "origin": origin
        and {
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "index": origin.index,
        },
    }


def recipient_view(recipient: Recipient) -> dict[str, Any]:
    """One recipient with the last that was heard about it."""
    view: dict[str, Any] = {"address": recipient.address, "verdict": None, "uncertain": recipient.uncertain}
    result = recipient.result
    if result is not None:
        view |= {
            "verdict": str(result.verdict),
            "phase": str(result.phase),
            "code": result.code,
            "enhanced": result.enhanced,
            "text": result.text,
        }
    return view
