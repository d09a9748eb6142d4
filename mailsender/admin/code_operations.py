"""What HTTP may ask of a replica about confirmation codes."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from mailsender.codes.desk import CodeDesk, Guess, Made, NoCodes, Policy, Wanted, letter_of
from mailsender.codes.port import Verdict
from mailsender.codes.seal import Seal
from mailsender.intake.batch import Fault, faults, read_letter
from mailsender.intake.schema import NO_ID
from mailsender.model.errors import Forbidden, Rejected
from mailsender.model.json_values import batch_text
from mailsender.model.letter import Origin, now_ms
from mailsender.model.records import Landed, Outgoing
from mailsender.service import Replica
from mailsender.settings.environment import Settings
from mailsender.web.operations import BadBatch, Refused

RETRY: Final = 5.0
"""Seconds after which a code may be asked for again that could not be sent."""

KEY_BYTES: Final = 12
"""Random bytes of its record's key, as of every posted one."""

_NOWHERE: Final = Origin(topic="", partition=0, offset=0, index=0, timestamp=-1)

_NOTHING: Final = b"[]"
"""A batch without letters: it is taken in as others are, and nothing comes of it."""


class ReplicaCodes:
    """Makes and checks codes for a replica; `post` publishes a batch as `POST /post` does."""

    def __init__(
        self, replica: Replica, post: Callable[[bytes], Awaitable[object]], new_id: Callable[[], str]
    ) -> None:
        self._replica = replica
        self._post = post
        store, secret = replica.parts.codes, replica.settings.code_secret.get_secret_value()
        self._desk = (
            CodeDesk(
                store, Seal(secret.encode()), policy_of(replica.settings), send=self._send, new_id=new_id
            )
            if store is not None and secret
            else None
        )

    async def make(self, wanted: Wanted) -> Made:
        """See `CodeDesk.make`. What no letter can be made of is refused before anything is counted.

        Raises:
            NoCodes: there is no secret.
            BadBatch: there is no such template, or it cannot be filled in with these variables.
        """
        desk = self._the_desk()
        await self._look_at_template(wanted)
        return await desk.make(wanted)

    async def _look_at_template(self, wanted: Wanted) -> None:
        """Make the letter with a code of zeros, whether the address is known or not, and throw it away."""
        replica, life = self._replica, self._replica.settings.code_life
        now = now_ms(replica.clock.epoch())
        code = "0" * replica.settings.code_length
        element = letter_of(wanted, code, NO_ID, now + timedelta(seconds=life), life)
        if found := faults([element], replica.limits):
            raise BadBatch("1 of 1 letters are wrong.", found)
        letter = read_letter(element, _NOWHERE, None, replica.limits, now=now)
        try:
            letter, filling = await replica.filler.tried(letter)
            person = letter.everybody[0]
            replica.composer.compose(
                letter, eight_bit=True, smtputf8=True, date=now, person=person, filling=filling
            )
        except ValueError as error:
            fault = Fault(index=0, field="Template", text=f"cannot be filled in: {error}")
            raise BadBatch("1 of 1 letters are wrong.", [fault]) from None

    async def check(self, guess: Guess) -> Verdict:
        """See `CodeDesk.check`.

        Raises:
            NoCodes: there is no secret.
        """
        return await self._the_desk().check(guess)

    def _the_desk(self) -> CodeDesk:
        if self._desk is None:
            raise NoCodes
        return self._desk

    async def _send(self, letter: Mapping[str, Any], really: bool) -> None:
        """Publish a letter, or, so that nobody can tell the two apart, look at it and publish nothing."""
        if not really:
            await self._pretend(letter)
            return
        try:
            await self._post(batch_text([letter], ascii_only=False).encode())
        except Refused as error:
            # Its own words tell of IDs with which the batch can be posted again.
            raise _refused(error.reason) if error.ids else error from None

    async def _pretend(self, letter: Mapping[str, Any]) -> None:
        if found := faults([letter], self._replica.limits):
            raise BadBatch("1 of 1 letters are wrong.", found)
        topic = self._replica.settings.kafka_topic_mailsender
        key = secrets.token_urlsafe(KEY_BYTES).encode()
        record = Outgoing(topic=topic, key=key, value=_NOTHING, anywhere=True)
        (answer,) = await self._replica.parts.sink.publish([record])
        if isinstance(answer, Rejected):
            raise answer
        if isinstance(answer, Forbidden):
            raise _refused("forbidden") from answer
        if not isinstance(answer, Landed):
            raise _refused("unconfirmed") from answer


def _refused(reason: str) -> Refused:
    text = {
        "forbidden": "mailsender may not write to the in-topic: give its user WRITE there. No code was sent.",
        "unconfirmed": "Kafka did not confirm the letter in time. The code in it will not be right, if it was"
        " sent; ask for another one.",
    }[reason]
    return Refused(reason, text, retry_after=RETRY)


def policy_of(settings: Settings) -> Policy:
    """What codes are like, by the settings."""
    return Policy(
        length=settings.code_length,
        life=settings.code_life,
        tries=settings.code_tries,
        pause=settings.code_pause,
        window=settings.code_window,
        per_address=settings.code_per_address,
        per_caller=settings.code_per_caller,
    )
