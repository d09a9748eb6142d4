"""Letters that callers give over HTTP, on their way to the in-topic: read, checked, given IDs, published."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mailsender.admin.blobs import ReplicaBlobs
from mailsender.admin.breath import Breath
from mailsender.admin.dry_run import DryRun
from mailsender.intake.batch import (
    Fault,
    NotABatch,
    decode,
    decode_letter,
    faults,
    identified,
    letter_id,
    read_letter,
)
from mailsender.model.errors import Forbidden, Rejected
from mailsender.model.json_values import batch_text
from mailsender.model.letter import Origin, Status, now_ms
from mailsender.model.records import Landed, Outgoing
from mailsender.service import Replica
from mailsender.web.models import DryRunView
from mailsender.web.operations import BadBatch, BadLetter, Posted, Refused, Submission, Submitted
from mailsender.web.problems import MAX_FAULTS

KEY_BYTES: Final = 16
"""Bytes of the random key of a posted record, as the original chose it; ours can be printed."""

RETRY_SOON, RETRY_LATER = 5.0, 30.0
"""Seconds after which a refused post may be tried again: another replica answers, or a part is back."""

_NOWHERE: Final = Origin(topic="", partition=0, offset=0, index=0, timestamp=-1)
"""Where a letter comes from that is read only to see what is in it."""


class Posting:
    """What of `web.operations.Operations` takes letters, over a replica."""

    def __init__(self, replica: Replica, blobs: ReplicaBlobs) -> None:
        self._replica = replica
        self._blobs = blobs
        # One after the other: the work for several at once would be one long turn for all others.
        self._reading = asyncio.Lock()
        self._trying = asyncio.Lock()  # a dry run may wait for files and templates, and no letter for it

    def accepting(self) -> None:
        """Raises Refused when no letters are taken now."""
        replica = self._replica
        if replica.state != "running":
            text = f"This replica is {replica.state} and takes no letters; try another one."
            raise Refused(replica.state, text, retry_after=RETRY_SOON)
        # Not the topic's trouble: a post is what tells whether that is over.
        if replica.parts.sink.trouble:
            text = "Kafka cannot be reached now, so nothing of the batch was taken; try again."
            raise Refused("no-broker", text, retry_after=RETRY_SOON)
        if (waiting := replica.queue_full) is not None:
            replica.posts_refused += 1
            limit = replica.settings.queue_max_letters
            text = f"{waiting} letters wait already, more than QUEUE_MAX_LETTERS ({limit})."
            raise Refused("queue-full", text, retry_after=RETRY_LATER)

    async def attach(self, name: str, content_type: str, content: AsyncIterator[bytes]) -> Mapping[str, Any]:
        """The entry of `Attachments` for a file, whose content is stored."""
        blob = await self._blobs.put(content)
        return {"Name": name, "ContentType": content_type, "Ref": blob.ref}

    async def post(self, body: bytes, key: str) -> Posted:
        """Publish `body` as its producer would, with an `ID` in each letter that has none."""
        self.accepting()
        async with self._reading:
            elements = await self._batch(body)
            await self._examine(elements)
            breath = Breath()
            for index, element in enumerate(elements):
                elements[index] = identified(element, self.new_id)
                await breath.taken()
            value = _written(elements)
        ids = tuple(letter_id(element) for element in elements)
        landed = await self._publish(value, key, ids)
        return Posted(topic=landed.topic, partition=landed.partition, offset=landed.offset, ids=ids)

    async def submit(self, given: Submission, key: str) -> Submitted:
        """Publish one letter as a batch of its own, with an `ID`."""
        self.accepting()
        async with self._reading:
            element = self._element(given)
            now = now_ms(self._replica.clock.epoch())
            letter = read_letter(element, _NOWHERE, None, self._replica.limits, now=now)
            if letter.status is Status.ERROR or self._replica.placing.denies(letter.handling.route):
                raise BadLetter("The letter is wrong.", self._faults(element))
            element = identified(element, self.new_id)
            own, value = letter_id(element), _written([element])
        landed = await self._publish(value, key, (own,))
        return Submitted(
            topic=landed.topic,
            partition=landed.partition,
            offset=landed.offset,
            id=own,
            content=letter.content,
        )

    async def dry_run(self, given: bytes | Submission) -> DryRunView:
        """What would become of letters; whatever the state of the replica."""
        async with self._trying:
            run = DryRun(self._replica)
            if isinstance(given, Submission):
                return await run.of([self._element(given)], alone=True)
            return await run.of(await self._batch(given), alone=False)

    async def _publish(self, value: bytes, key: str, ids: Sequence[str]) -> Landed:
        """Publish one record; raises Refused with `ids` where it may not be there."""
        topic = self._replica.settings.kafka_topic_mailsender
        named = key.encode() or _printable_key()
        record = Outgoing(topic=topic, key=named, value=value, anywhere=not key)
        (answer,) = await self._replica.parts.sink.publish([record])
        if isinstance(answer, Landed):
            return answer
        if isinstance(answer, Rejected):
            raise answer
        if isinstance(answer, Forbidden):
            text = (
                f"mailsender may not write to {topic}: give its user WRITE there. Then post the same letters,"
                " with the IDs that `ids` gives them."
            )
            raise Refused("forbidden", text, retry_after=RETRY_SOON, ids=ids) from answer
        text = (
            "Kafka did not confirm the batch in time; it may have been stored. To repeat it safely post"
            " the same letters with the IDs that `ids` gives them."
        )
        raise Refused("unconfirmed", text, retry_after=RETRY_SOON, ids=ids) from answer

    async def _batch(self, body: bytes) -> list[Mapping[str, Any]]:
        """The elements of a batch, of which there is one at least.

        Raises:
            BadBatch: it is none.
        """
        try:
            elements: list[Mapping[str, Any]] = [*decode(body, self._replica.limits)]
        except NotABatch as error:
            raise BadBatch(str(error)) from None
        if not elements:
            raise BadBatch("The array is empty: there is nothing to send.")
        await asyncio.sleep(0)
        return elements

    def _element(self, given: Submission) -> Mapping[str, Any]:
        """One letter with its files and its key.

        Raises:
            BadLetter: it is none, or has another key than the one beside it.
        """
        try:
            element: Mapping[str, Any] = decode_letter(given.body, self._replica.limits)
        except NotABatch as error:
            raise BadLetter(str(error)) from None
        if given.files:
            own = _value(element, "Attachments")
            # What is no list is told as a fault of the letter.
            if own is None or isinstance(own, list):
                element = _with(element, "Attachments", [*(own or []), *given.files])
        if given.key:
            own = _value(element, "IdempotencyKey")
            if own not in (None, "", given.key):
                fault = Fault(index=0, field="IdempotencyKey", text="is another one than the header's")
                raise BadLetter("The letter is wrong.", [fault])
            element = _with(element, "IdempotencyKey", given.key)
        return element

    async def _examine(self, elements: Sequence[Mapping[str, Any]]) -> None:
        """Look through a batch, and let others have their turn meanwhile.

        Raises:
            BadBatch: with as many faults as are told; what comes behind them is not looked at.
        """
        found: list[Fault] = []
        breath = Breath()
        for index, element in enumerate(elements):
            found += [replace(fault, index=index) for fault in self._faults(element)]
            if len(found) > MAX_FAULTS:
                break
            await breath.taken()
        if found:
            least = "At least " if len(found) > MAX_FAULTS else ""
            wrong = len({f.index for f in found})
            raise BadBatch(f"{least}{wrong} of {len(elements)} letters are wrong.", found)

    def _faults(self, element: Mapping[str, Any]) -> list[Fault]:
        """What the intake would take an element for an error by."""
        return faults([element], self._replica.limits, self._replica.placing.denies)

    def new_id(self) -> str:
        """As ObjectIds are: the time, so that IDs sort by it, and chance."""
        return f"{int(self._replica.clock.epoch()) & 0xFFFFFFFF:08x}{secrets.token_hex(8)}"


def _value(element: Mapping[str, Any], name: str) -> Any:
    """What an element has under a key, whatever its case; the last of several counts."""
    found = [value for key, value in element.items() if key.casefold() == name.casefold()]
    return found[-1] if found else None


def _with(element: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The element with `value` as its only one under a key."""
    others = {key: each for key, each in element.items() if key.casefold() != name.casefold()}
    return {**others, name: value}


def _printable_key() -> bytes:
    return secrets.token_urlsafe(KEY_BYTES * 3 // 4).encode()


def _written(elements: Sequence[Mapping[str, Any]]) -> bytes:
    """A batch as JSON; half of a surrogate pair, which an ignored key may hold, goes escaped as it came."""
    try:
        return batch_text(elements, ascii_only=False).encode()
    except UnicodeEncodeError:
        return batch_text(elements, ascii_only=True).encode()
