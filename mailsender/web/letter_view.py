"""How a letter looks to an operator."""

from __future__ import annotations

from datetime import datetime

from mailsender.model.letter import PastAttempt, Recipient, StoredLetter
from mailsender.web.models import AttemptView, LetterView, OriginView, RecipientView


def letter_view(found: StoredLetter) -> LetterView:
    """What became of a letter, recipient by recipient, and until when it waits.

    Neither body nor subject nor token: a one-time code stands as readily in a subject as in a body.
    """
    letter = found.letter
    first = letter.answers[0]
    return LetterView.model_construct(
        id=letter.id,
        status=letter.status.value,
        attempts=letter.attempts,
        reason=letter.reason,
        relay=letter.relay,
        message_id=letter.message_id,
        accepted_at=found.accepted_at,
        due=found.due,
        finished_at=letter.finished_at,
        recipients=[recipient_view(recipient, found.due) for recipient in letter.recipients],
        history=[attempt_view(past) for past in letter.history],
        publishers=len(letter.answers),
        reported=letter.status.final and letter.answered >= len(letter.answers),
        body_omitted=letter.bare,
        adopted=letter.adopted,
        origin=first.origin
        and OriginView.model_construct(
            topic=first.origin.topic,
            partition=first.origin.partition,
            offset=first.origin.offset,
            index=first.origin.index,
        ),
    )


def recipient_view(recipient: Recipient, due: datetime | None) -> RecipientView:
    """One recipient with the last that was heard about it, and when its turn is, while its letter awaits."""
    result = recipient.result
    next_try = due if recipient.open else None
    if result is None:
        return RecipientView.model_construct(
            address=recipient.address, verdict=None, uncertain=recipient.uncertain, next_try=next_try
        )
    return RecipientView.model_construct(
        address=recipient.address,
        verdict=result.verdict.value,
        uncertain=recipient.uncertain,
        phase=result.phase.value,
        code=result.code,
        enhanced=result.enhanced,
        text=result.text,
        relay=recipient.relay,
        next_try=next_try,
    )


def attempt_view(past: PastAttempt) -> AttemptView:
    """One attempt of those that a letter took."""
    result = past.result
    return AttemptView.model_construct(
        at=past.at,
        relay=past.relay,
        verdict=result.verdict.value,
        phase=result.phase.value,
        code=result.code,
        enhanced=result.enhanced,
        text=result.text,
        recipients=past.asked,
        accepted=past.accepted,
        seconds=past.seconds,
        tls=past.tls,
    )
