"""How a letter looks to an operator."""

from __future__ import annotations

from mailsender.model.letter import Recipient, StoredLetter
from mailsender.web.models import LetterView, OriginView, RecipientView


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
        recipients=[recipient_view(recipient) for recipient in letter.recipients],
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


def recipient_view(recipient: Recipient) -> RecipientView:
    """One recipient with the last that was heard about it; without more than its address before that."""
    result = recipient.result
    if result is None:
        return RecipientView.model_construct(
            address=recipient.address, verdict=None, uncertain=recipient.uncertain
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
    )
