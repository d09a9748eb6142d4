"""What the notes of dead processes say is settled, before anything is claimed."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from mailsender.journal.port import Notes
from mailsender.journal.record import Story, noted_id
from mailsender.model.letter import Letter, Recipient, Result, Settlement, Verdict
from mailsender.model.ports import Queue, Unavailable
from mailsender.routing.relay import Relay
from mailsender.routing.schedule import RetryPolicy
from mailsender.sending.attempt import Attempt, after_attempt
from mailsender.sending.sender import Compose
from mailsender.sending.settler import Settler

log = structlog.get_logger()

T = TypeVar("T")

BATCH = 500
"""Letters in one round trip; a process has about as many in flight."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds between tries while MongoDB is away."""


class Recovery:
    """Settles what a relay answered, names the uncertain, gives back the rest at once.

    All of it is guarded by the tokens that the notes hold: a letter that somebody else took meanwhile
    stays theirs.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        notes: Notes,
        settler: Settler,
        composer: Compose,
        relay: Relay,
        retry: RetryPolicy,
        chance: random.Random,
    ) -> None:
        self._queue = queue
        self._notes = notes
        self._settler = settler
        self._composer = composer
        self._relay = relay
        self._retry = retry
        self._chance = chance
        self.settled = self.uncertain = self.released = self.gone = 0

    async def run(self) -> None:
        """Deal with all that was left behind; waits for MongoDB. Cancelled, it is safe to repeat."""
        left = self._notes.left_behind()
        names = {noted_id(each): each for _, ids in await self._claims(left.runs) for each in ids}
        stories = [
            replace(each, letter_id=names.get(each.letter_id, each.letter_id)) for each in left.stories
        ]
        for start in range(0, len(stories), BATCH):
            await self._deal(stories[start : start + BATCH])
        # Only now: what is still under the runs' tokens is in no story.
        for token, ids in await self._claims(left.runs):
            await self._settler.release_now(token, ids)
            self.released += len(ids)
        for run in left.runs:
            await self._answer(partial(self._queue.leave, run))
        self._notes.forget()
        if left.runs or left.stories:
            log.warning(
                "notes_recovered",
                settled=self.settled,
                uncertain=self.uncertain,
                released=self.released,
                gone=self.gone,
            )

    async def _claims(self, runs: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
        """What is claimed by these runs still: tokens with their letters' IDs."""
        found: list[tuple[str, Sequence[str]]] = []
        for run in runs:
            found += (await self._answer(partial(self._queue.claims_of, run))).items()
        return found

    async def _deal(self, stories: Sequence[Story]) -> None:
        letters = await self._letters(stories)
        settlements: list[Settlement] = []
        uncertain = set()
        for story in stories:
            letter = letters.get((story.token, story.letter_id))
            results = self._news(letter, story) if letter else {}
            if letter is None or not results:
                self.gone += letter is None
                continue
            if any(result.verdict is Verdict.UNCERTAIN for result in results.values()):
                uncertain.add(letter.id)
            settlements.append(self._settlement(story.token, letter, results))
        await self._write(settlements, uncertain)

    def _news(self, letter: Letter, story: Story) -> dict[str, Result]:
        """What the story says of recipients of whom nothing final is written down yet.

        Of a letter that takes several transactions each is written down when it is through: what stands there
        already is not counted again.
        """
        told = story.outcome(letter.everybody)
        large = len(letter.everybody) > self._relay.policy.max_recipients
        return {
            each.address: told[each.address]
            for each in letter.recipients
            if each.open and each.address in told and not (large and _written(each, told[each.address]))
        }

    def _settlement(self, token: str, letter: Letter, results: Mapping[str, Result]) -> Settlement:
        """Who was not reached, or only may have been, is due at once, unless a relay deferred somebody."""
        deferred = any(result.verdict is Verdict.DEFERRED for result in results.values())
        attempt = Attempt(
            results=results,
            relay=self._relay.address,
            message_id=self._composer.message_id(letter),
            cut=not deferred,
        )
        moved, delay = after_attempt(letter, attempt, self._retry, jitter=self._chance.random())
        return Settlement(token=token, letter=moved, delay=delay if deferred else 0.0)

    async def _write(self, settlements: Sequence[Settlement], uncertain: set[str]) -> None:
        if not settlements:
            return
        late = await self._settler.settle_now(settlements)
        again = {each.letter.id for each in settlements if not each.letter.status.final}
        for each in sorted(uncertain - late):
            log.warning("letter_uncertain", letter=each, sent_again=each in again)
        kept = {each.letter.id for each in settlements} - late
        self.gone += len(settlements) - len(kept)
        self.uncertain += len(kept & uncertain)
        self.settled += len(kept - uncertain)
        self._settler.tally.uncertain += len(kept & uncertain)
        self._settler.tally.recovered += len(kept - uncertain)

    async def _letters(self, stories: Sequence[Story]) -> dict[tuple[str, str], Letter]:
        claims: defaultdict[str, list[str]] = defaultdict(list)
        for story in stories:
            claims[story.token].append(story.letter_id)
        held = await self._answer(partial(self._queue.held, claims))
        return {(token, each.id): each for token, letters in held.items() for each in letters}

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        backoff = FIRST_BACKOFF
        while True:
            try:
                return await ask()
            except Unavailable as error:
                if backoff == FIRST_BACKOFF:
                    log.warning("recovery_waits", error=str(error), action="repeated until MongoDB is back")
                await asyncio.sleep(backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)


def _written(recipient: Recipient, told: Result) -> bool:
    known = recipient.result
    if known is None or not recipient.tries:
        return False
    return (known.verdict, known.phase, known.code) == (told.verdict, told.phase, told.code)
