"""What the notes of dead processes say is settled, before anything is claimed."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import structlog

from mailsender.letter import Letter, Settlement, Verdict
from mailsender.notebook import Notes
from mailsender.notes import Story
from mailsender.ports import Queue, Unavailable
from mailsender.retry import Attempt, after_attempt
from mailsender.settle import Settler
from mailsender.worker import Compose, SendPolicy

log = structlog.get_logger()

BATCH = 500
"""Letters in one round trip; a process has about as many in hand."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds between tries while MongoDB is away."""


class Recovery:
    """Settles what a relay answered, names the uncertain, gives back the rest at once.

    All of it is guarded by the lease tokens that the notes hold: a letter that somebody else took meanwhile
    stays theirs.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        notes: Notes,
        settler: Settler,
        composer: Compose,
        policy: SendPolicy,
        relay: str,
        chance: random.Random,
    ) -> None:
        self._queue = queue
        self._notes = notes
        self._settler = settler
        self._composer = composer
        self._policy = policy
        self._relay = relay
        self._chance = chance
        self.settled = self.uncertain = self.released = self.gone = 0

    async def run(self) -> None:
        """Deal with all that was left behind; waits for MongoDB. Cancelled, it is safe to repeat."""
        stories = self._notes.left_behind()
        for start in range(0, len(stories), BATCH):
            await self._deal(stories[start : start + BATCH])
        self._notes.forget()
        if stories:
            log.warning(
                "notes_recovered",
                settled=self.settled,
                uncertain=self.uncertain,
                released=self.released,
                gone=self.gone,
            )

    async def _deal(self, stories: Sequence[Story]) -> None:
        letters = await self._letters(stories)
        settlements: list[Settlement] = []
        released: defaultdict[str, list[str]] = defaultdict(list)
        uncertain = set()
        for story in stories:
            letter = letters.get((story.token, story.letter_id))
            if letter is None:
                self.gone += 1
                continue
            results = story.outcome(letter.pending)
            if not results:
                released[story.token].append(story.letter_id)
                continue
            if any(result.verdict is Verdict.UNCERTAIN for result in results.values()):
                uncertain.add(story.letter_id)
                log.warning(
                    "letter_uncertain", letter=story.letter_id, again=self._policy.retry.resend_uncertain
                )
            settlements.append(self._settlement(story, letter))
        await self._write(settlements, uncertain)
        for token, ids in released.items():
            await self._settler.release_now(token, ids)
            self.released += len(ids)

    def _settlement(self, story: Story, letter: Letter) -> Settlement:
        """Who was not reached, or only may have been, is due at once, unless a relay deferred somebody."""
        results = story.outcome(letter.pending)
        deferred = any(result.verdict is Verdict.DEFERRED for result in results.values())
        attempt = Attempt(
            results=results,
            relay=self._relay,
            message_id=self._composer.message_id(letter.id),
            cut=not deferred,
        )
        moved, delay = after_attempt(letter, attempt, self._policy.retry, jitter=self._chance.random())
        return Settlement(token=story.token, letter=moved, delay=delay if deferred else 0.0)

    async def _write(self, settlements: Sequence[Settlement], uncertain: set[str]) -> None:
        if not settlements:
            return
        late = await self._settler.settle_now(settlements)
        kept = {each.letter.id for each in settlements} - late
        self.gone += len(settlements) - len(kept)
        self.uncertain += len(kept & uncertain)
        self.settled += len(kept - uncertain)
        self._settler.tally.uncertain += len(kept & uncertain)
        self._settler.tally.recovered += len(kept - uncertain)

    async def _letters(self, stories: Sequence[Story]) -> dict[tuple[str, str], Letter]:
        leases: defaultdict[str, list[str]] = defaultdict(list)
        for story in stories:
            leases[story.token].append(story.letter_id)
        backoff = FIRST_BACKOFF
        while True:
            try:
                held = await self._queue.held(leases)
            except Unavailable as error:
                if backoff == FIRST_BACKOFF:
                    log.warning("recovery_waits", error=str(error), action="repeated until MongoDB is back")
                await asyncio.sleep(backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)
            else:
                return {(token, each.id): each for token, letters in held.items() for each in letters}
