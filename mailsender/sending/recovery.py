"""What the journal of a dead process says is settled, before anything is claimed."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from mailsender.journal.port import Journal
from mailsender.journal.record import Trail, key_of, packed, replica_in
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Result, Settlement, Verdict
from mailsender.queue.port import Queue
from mailsender.routing.retry import RetryPolicy
from mailsender.sending.attempt import Attempt, after_attempt
from mailsender.sending.past import remembers, with_past
from mailsender.sending.settler import Settler
from mailsender.sending.tools import Compose

log = structlog.get_logger()

BATCH = 500
"""Letters in one round trip; a process has about as many in flight."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds between tries while MongoDB is away."""


class Recovery:
    """Settles what a relay answered, names the uncertain, gives back the rest at once.

    All of it is guarded by the tokens that the journal holds: a letter that somebody else took meanwhile
    stays theirs. `schedules` are those of the routes by name; the first one is for letters of a
    route that is no more.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        journal: Journal,
        settler: Settler,
        composer: Compose,
        schedules: Mapping[str, RetryPolicy],
        chance: random.Random,
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._settler = settler
        self._composer = composer
        self._schedules = schedules
        self._chance = chance
        self.settled = self.uncertain = self.released = 0

    async def run(self) -> None:
        """Deal with all that was left behind; waits for MongoDB. Cancelled, it is safe to repeat."""
        trails, replicas = self._journal.left_behind()
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._settle(trails, {replica_in(key) for key in trails}.union(replicas))
                # Only now: of what these still have no dot was written.
                await self._give_back(replicas)
                break
            except Unavailable as error:
                if backoff == FIRST_BACKOFF:
                    log.warning("recovery_waits", error=str(error), action="repeated until MongoDB is back")
            await asyncio.sleep(backoff)
            backoff = min(LAST_BACKOFF, backoff * 2)
        self._journal.forget()
        if trails or replicas:
            log.warning(
                "journal_recovered", settled=self.settled, uncertain=self.uncertain, released=self.released
            )

    async def _settle(self, trails: Mapping[bytes, Trail], replicas: Iterable[str]) -> None:
        known = [
            (token, each)
            for replica in replicas
            for token, ids in (await self._queue.claims_of(replica)).items()
            for each in ids
            if key_of(each, token) in trails
        ]
        for start in range(0, len(known), BATCH):
            claims: defaultdict[str, list[str]] = defaultdict(list)
            for token, letter_id in known[start : start + BATCH]:
                claims[token].append(letter_id)
            settlements: list[Settlement] = []
            uncertain: set[str] = set()
            noted = await self._queue.noted(claims)
            for token, letters in (await self._queue.held(claims)).items():
                for letter in letters:
                    trail = trails[key_of(letter.id, token)]
                    results = _news(letter, trail, noted.get(letter.id, NOBODY))
                    if results:
                        settlements.append(self._settlement(token, letter, results, trail.relay))
                    if any(each.verdict is Verdict.UNCERTAIN for each in results.values()):
                        uncertain.add(letter.id)
            if settlements:
                await self._write(settlements, uncertain)

    async def _give_back(self, replicas: Sequence[str]) -> None:
        for replica in replicas:
            for token, ids in (await self._queue.claims_of(replica)).items():
                await self._settler.release_now(token, ids)
                self.released += len(ids)
            await self._queue.leave(replica)

    def _settlement(
        self, token: str, letter: Letter, results: Mapping[str, Result], relay: str
    ) -> Settlement:
        """Who was not reached, or only may have been, is due at once, unless a relay deferred somebody."""
        deferred = any(result.verdict is Verdict.DEFERRED for result in results.values())
        attempt = Attempt(
            results=results,
            relay=relay,
            message_id=self._composer.message_id(letter),
            cut=not deferred,
        )
        retry = self._schedules.get(letter.route) or next(iter(self._schedules.values()))
        moved, delay = after_attempt(letter, attempt, retry, jitter=self._chance.random())
        if remembers(letter, moved):
            moved = with_past(letter, moved, attempt)
        return Settlement(token=token, letter=moved, delay=delay if deferred else 0.0)

    async def _write(self, settlements: Sequence[Settlement], uncertain: set[str]) -> None:
        late = await self._settler.settle_now(settlements)
        again = {each.letter.id for each in settlements if not each.letter.status.final}
        for each in sorted(uncertain - late):
            log.warning("letter_uncertain", letter=each, sent_again=each in again)
        kept = {each.letter.id for each in settlements} - late
        self.uncertain += len(kept & uncertain)
        self.settled += len(kept - uncertain)
        self._settler.tally.uncertain += len(kept & uncertain)
        self._settler.tally.recovered += len(kept - uncertain)


NOBODY: Final[frozenset[int]] = frozenset()
"""Those of a letter of one transaction of whom something was written down before it was settled."""


def _news(letter: Letter, trail: Trail, noted: frozenset[int]) -> dict[str, Result]:
    """What the trail says of recipients of whom nothing final is written down yet.

    Of a letter that takes several transactions each is written down when it is through: of those in `noted`,
    by their places, what stands there already is not counted again.
    """
    told = trail.outcome(letter.everybody)
    news: dict[str, Result] = {}
    for place, each in enumerate(letter.recipients):
        said = told.get(each.address)
        if said is None or not each.open:
            continue
        if not (place in noted and each.result and packed(each.result) == packed(said)):
            news[each.address] = said
    return news
