"""How a letter looks to an operator."""

from __future__ import annotations

from datetime import datetime

from mailsender.model.letter import PastAttempt, Recipient, StoredLetter, now_ms
from mailsender.suppression.rules import IGNORE, wants_to_ignore
from mailsender.web.models import AttemptView, LetterView, OriginView, RecipientView


def letter_view(found: StoredLetter) -> LetterView:
    """What became of a letter, recipient by recipient, and until when it waits.

    Neither body nor subject nor token: a one-time code stands as readily in a subject as in a body.
    """
    letter = found.letter
    asked = letter.handling
    first = letter.answers[0]
    return LetterView.model_construct(
        id=letter.id,
        status=letter.status.value,
        route=letter.route,
        wanted_route=asked.route,
        stream=asked.stream,
        tags=list(asked.tags),
        priority=asked.priority.value,
        retry=asked.retry,
        not_before=asked.not_before,
        expires=letter.expires,
        suppression=IGNORE if wants_to_ignore(letter) else "",
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
    next_try = _next_try(recipient, due)
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
        rule=result.rule,
        relay=recipient.relay,
        next_try=next_try,
    )


def _next_try(recipient: Recipient, due: datetime | None) -> datetime | None:
    """The letter's time, or its own where that is later; None for who is done with, or on the way."""
    if due is None or not recipient.open:
        return None
    return max(due, now_ms(recipient.due)) if recipient.due else due


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
        rule=result.rule,
        recipients=past.asked,
        accepted=past.accepted,
        seconds=past.seconds,
        tls=past.tls,
    )
