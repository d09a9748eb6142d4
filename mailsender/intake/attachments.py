"""What letters carry is in the store, and kept, before they are in the queue.

A letter whose attachment is not there, or too large, becomes an `error`; its neighbours never notice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from mailsender.blobs.port import BlobStore
from mailsender.intake.schema import Limits
from mailsender.message.values import BadKey
from mailsender.model.blobs import named_in, ref_of
from mailsender.model.clock import Clock
from mailsender.model.letter import Letter, Status, now_ms
from mailsender.queue.port import Inserted

SECURED: Final = 600.0
"""Seconds after which what was secured is secured once more before letters that name it are inserted: a store
keeps it for an hour at least."""


class Contents:
    """Contents on their way into the store, by their `Ref`s; `refs` are all that letters name."""

    def __init__(self) -> None:
        self.refs: set[str] = set()
        self.by_ref: dict[str, bytes] = {}

    def keep(self, content: bytes) -> str:
        """Keep a content that a letter brings, until it is known whether the letter is a good one."""
        ref = ref_of(content)
        self.by_ref[ref] = content
        return ref

    def emptied(self) -> Contents:
        """Those of the next record: nothing is made where nothing has to be."""
        return Contents() if self.by_ref else self

    def take_named(self, letter: Letter, contents: Contents) -> int:
        """Take over what a letter names; how many bytes they are that were not here before."""
        more = 0
        for ref in named_in(letter.mail):
            self.refs.add(ref)
            content = contents.by_ref.get(ref)
            if content is not None and ref not in self.by_ref:
                self.by_ref[ref] = content
                more += len(content)
        return more


class Attachments:
    """Secures in `store` what letters name; without a store nothing that they name is there."""

    def __init__(self, store: BlobStore | None, limits: Limits, clock: Clock) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._secured: set[str] = set()
        self._brought: Mapping[str, bytes] = {}
        self._secured_at = 0.0

    async def secure(self, letters: Sequence[Letter], attached: Contents) -> list[Letter]:
        """Store what `letters` bring, keep what they name, and let those be errors whose files are not there.

        Raises:
            Unavailable: the store is away. It is safe to repeat.
        """
        sizes: Mapping[str, int] = {}
        if self._store is not None:
            sizes = await self._store.secure(attached.refs, attached.by_ref)
        self._secured, self._secured_at = set(sizes), self._clock.monotonic()
        self._brought = attached.by_ref
        return [self._judged(letter, sizes) if letter.mail else letter for letter in letters]

    async def still_secured(self, insert: Callable[[], Awaitable[list[Inserted]]]) -> list[Inserted]:
        """Insert what was secured, which has to be done anew where too much time has passed since.

        Raises:
            Unavailable: the store or the queue is away.
        """
        if self._secured and self._clock.monotonic() - self._secured_at > SECURED and self._store is not None:
            there = await self._store.secure(self._secured, {})
            # A sweep of any replica removes what no letter names once its time is over.
            if lost := self._brought.keys() & self._secured - there.keys():
                await self._store.secure(lost, {ref: self._brought[ref] for ref in lost})
            self._secured_at = self._clock.monotonic()
        return await insert()

    def inserted(self) -> None:
        """What was secured is named by letters in the queue now."""
        self._secured.clear()
        self._brought = {}

    def _judged(self, letter: Letter, sizes: Mapping[str, int]) -> Letter:
        """The letter, or an `error` with the same content: of one that is read again it is known by that."""
        fault = None if letter.status.final else fault_of(named_in(letter.mail), sizes, self._limits)
        if fault is None:
            return letter
        return letter.evolve(
            status=Status.ERROR,
            reason=str(fault),
            finished_at=now_ms(self._clock.epoch()),
            digest=letter.content,
        )


def fault_of(refs: Sequence[str], sizes: Mapping[str, int], limits: Limits) -> BadKey | None:
    """What is wrong with the blobs that a letter names, where those of `sizes` are there."""
    total = 0
    for place, ref in enumerate(refs):
        size = sizes.get(ref)
        if size is None:
            return BadKey(
                f"Attachments[{place}].Ref", "names a blob that is not there: put it first (PUT /blobs)"
            )
        if size > limits.attachment:
            return BadKey(f"Attachments[{place}]", f"has {size} bytes; {limits.attachment} are allowed")
        total += size
    if total > limits.attachments:
        return BadKey("Attachments", f"have {total} bytes together; {limits.attachments} are allowed")
    return None
