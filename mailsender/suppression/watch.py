"""One replica's view of the suppression list: whom its letters lose by it, and what it learns from replies.

It costs a letter nothing while the list is empty, and one query for each batch of letters otherwise.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from mailsender.aio import first_of, pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.model.letter import Letter, Result, Verdict, now_ms
from mailsender.suppression.port import Entry, Refusal, SuppressionStore
from mailsender.suppression.rules import (
    BY_NO_RULE,
    SuppressionPolicy,
    ignores,
    keys_of,
    met,
    refusals_of,
    stream_of,
    without,
)

log = structlog.get_logger()

EMPTY_FOR: Final = 5.0
"""Seconds between two looks whether the list is empty; the first entry that another replica makes is met as
much later, and every further one at once."""

CLOSED_FOR: Final = 60.0
"""Seconds until it is asked again whether the list may be read, where it may not."""

WATCHED: Final = 10_000
"""Learned entries that letters met, of which a success is told; of more the first ones end by their time."""

PENDING: Final = 10_000
"""Refusals, and successes, that wait to be written; what comes while they are so many is not learned."""

GATHER: Final = 0.5
"""Seconds for which what was learned gathers for a write."""

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 10.0
"""Seconds between tries while MongoDB is away."""


class SuppressionWatch:
    """Looks letters up before they are sent, and learns from what became of them.

    `hits` counts the recipients to whom nothing was sent, `learned` the refusals that were written, `lifted`
    the entries that a success took away, `forgotten` what was not learned for there was too much of it.
    `unread` says that the list may not be read, `unwritten` that nothing may be written there.
    """

    def __init__(
        self,
        store: SuppressionStore,
        clock: Clock,
        policy: SuppressionPolicy,
        *,
        stream: Callable[[Letter], str] = stream_of,
    ) -> None:
        self.store = store
        self.policy = policy
        self._clock = clock
        self._stream = stream
        self._empty = False
        self._good_until = float("-inf")  # what is known of that
        self._stirs = 0
        self._watched: OrderedDict[str, None] = OrderedDict()
        self._refusals: list[Refusal] = []
        self._successes: dict[str, None] = {}
        self._unlearned: dict[str, None] = {}
        self._wake = asyncio.Event()
        self.hits = 0
        self.learned = 0
        self.lifted = 0
        self.forgotten = 0
        self.unread = self.unwritten = False

    # --- before it is sent -----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether the list is known to be empty, so that nobody has to be looked up."""
        return self._empty and self._clock.monotonic() < self._good_until

    def stir(self) -> None:
        """Something was put on the list: look there again."""
        self._stirs += 1
        self._good_until = float("-inf")

    async def look_up(self, letters: Sequence[Letter]) -> Mapping[str, Letter]:
        """Those of `letters` with recipients on the list, by their IDs, without them; see `rules.without`.

        Raises:
            Unavailable: the list cannot be read now, so nobody knows.
        """
        if self.idle or not letters:
            return {}
        try:
            found = await self._find(letters)
        except (Forbidden, Rejected) as error:
            # What was sent before there was a list goes on without one.
            self._empty, self._good_until = True, self._clock.monotonic() + CLOSED_FOR
            if not self.unread:
                log.warning("suppression_unread", error=str(error), action="letters are sent without it")
            self.unread = True
            return {}
        if self.unread:
            self.unread = False
            log.info("suppression_read_again")
        return self._hit(letters, found) if found else {}

    async def met(self, letter: Letter, addresses: Sequence[str]) -> Mapping[str, Entry]:
        """The entries by which a letter is not sent to some of these addresses. For people: nothing is noted.

        Empty, too, where the list may not be read: letters are sent without it then.

        Raises:
            Unavailable: the list cannot be read now.
        """
        stream = self._stream(letter)
        if ignores(letter, stream, self.policy):
            return {}
        keys = {key: None for address in addresses for key in keys_of(address, stream)}
        try:
            found = {each.key: each for each in await self.store.find(keys)}
        except (Forbidden, Rejected):
            return {}
        now = now_ms(self._clock.epoch())
        entries = {address: met(address, stream, found, now) for address in addresses}
        return {address: entry for address, entry in entries.items() if entry is not None}

    async def _find(self, letters: Sequence[Letter]) -> dict[str, Entry]:
        """The entries that recipients of these letters meet, by their keys."""
        asked = self._clock.monotonic()
        if asked >= self._good_until:
            stirs = self._stirs
            empty = await self.store.empty()
            if stirs == self._stirs:  # else something was put there meanwhile
                self._empty, self._good_until = empty, asked + EMPTY_FOR
        if self.idle:
            return {}
        keys = {
            key: None
            for letter in letters
            for address in letter.pending
            for key in keys_of(address, self._stream(letter))
        }
        return {each.key: each for each in await self.store.find(keys)}

    def _hit(self, letters: Sequence[Letter], found: Mapping[str, Entry]) -> dict[str, Letter]:
        for key, entry in found.items():
            if entry.source.learned:
                self._watched[key] = None
                self._watched.move_to_end(key)
        while len(self._watched) > WATCHED:
            self._watched.popitem(last=False)
        now, moved = now_ms(self._clock.epoch()), {}
        for letter in letters:
            stream = self._stream(letter)
            left = None if ignores(letter, stream, self.policy) else without(letter, stream, found, now)
            if left is not None:
                moved[letter.id] = left
        return moved

    # --- after it was sent -----------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        """Whether a success can tell anything: letters met entries that it would take away."""
        return bool(self._watched)

    def note(
        self,
        letter: Letter,
        results: Mapping[str, Result],
        failed: Mapping[str, int] | None = None,
        unlearned: Collection[str] = (),
    ) -> None:
        """Learn from what an attempt came to; `failed` as for `mailsender.suppression.rules.refusals_of`.

        Of those who are `unlearned` it says nothing; what the last refusals of others of them taught, in
        letters before this one, is taken back.
        """
        if self._watched:
            self._note_successes(letter, results)
        if self.policy.learns:
            if unlearned:
                self._take_back([each for each in unlearned if each not in results])
                results = {each: result for each, result in results.items() if each not in unlearned}
            self._note_refusals(letter, results, failed or BY_NO_RULE)

    def _take_back(self, addresses: Iterable[str]) -> None:
        for key in [key for address in addresses for key in keys_of(address)[:1]]:
            self._refusals = [each for each in self._refusals if each.address != key]
            self._unlearned[key] = None
            self._wake.set()

    def _note_successes(self, letter: Letter, results: Mapping[str, Result]) -> None:
        stream = self._stream(letter)
        for address, result in results.items():
            if result.verdict is not Verdict.ACCEPTED:
                continue
            for key in keys_of(address, stream):
                if key in self._watched:
                    del self._watched[key]
                    self._refusals = [each for each in self._refusals if each.address != key]
                    self._successes[key] = None
                    self._wake.set()

    def _note_refusals(
        self, letter: Letter, results: Mapping[str, Result], failed: Mapping[str, int]
    ) -> None:
        now = now_ms(self._clock.epoch())
        until = now + timedelta(seconds=self.policy.life)
        found = list(refusals_of(letter, results, now, until, failed=failed))
        if not found:
            return
        if len(self._refusals) + len(self._successes) + len(found) > PENDING:
            self.forgotten += len(found)
            return
        self._refusals += found
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write what was learned until `stop`, and what is left then if the list can be written."""
        backoff = FIRST_BACKOFF
        self._wake.set()  # something may wait since this failed
        while not stop.is_set():
            await first_of(self._wake, stop)
            await pause(stop, GATHER)
            if not stop.is_set() and not await self._write():
                await pause(stop, backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)
                continue
            backoff = FIRST_BACKOFF
        await self._write()

    async def _write(self) -> bool:
        """Write what waits; False where it has to wait on."""
        self._wake.clear()
        successes, refusals = list(self._successes), list(self._refusals)
        unlearned = list(self._unlearned)
        try:
            await self._tell(successes, unlearned, refusals)
        except Unavailable as error:
            if isinstance(error, Forbidden) and not self.unwritten:
                self.unwritten = True
                log.warning("suppression_unwritten", error=str(error), action="it is tried again and again")
            self._wake.set()
            return False
        except Rejected as error:
            log.error("suppression_not_written", error=str(error), action="what was learned is dropped")
        else:
            if self.unwritten:
                self.unwritten = False
                log.info("suppression_written_again")
            self._learned(len(refusals))
        for key in successes:
            self._successes.pop(key, None)
        for key in unlearned:
            self._unlearned.pop(key, None)
        written = set(map(id, refusals))
        self._refusals = [each for each in self._refusals if id(each) not in written]
        return True

    async def _tell(
        self, successes: Sequence[str], unlearned: Sequence[str], refusals: Sequence[Refusal]
    ) -> None:
        if successes:
            self.lifted += await self.store.remove(successes, learned=True)
        if unlearned:
            await self.store.remove(unlearned, learned=True)
        if refusals:
            await self.store.note(refusals)

    def _learned(self, refusals: int) -> None:
        if refusals:
            self.learned += refusals
            self.stir()
            log.info("refusals_learned", recipients=refusals)
