"""The queue and the slot store in memory: for trials, and for tests of the loops.

They live and die with the process and serve it alone; apart from that they keep the same contract as those
in MongoDB.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, islice
from operator import itemgetter
from typing import TypeAlias

from mailsender.model.blobs import named_in, without_texts
from mailsender.model.clock import Clock
from mailsender.model.history import History, digest_of
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    Answer,
    Claim,
    FreshClaim,
    Letter,
    Origin,
    Recipient,
    Settlement,
    Status,
    StoredLetter,
    now_ms,
    replica_of,
)
from mailsender.model.queue_stats import MOST_ROUTES, QueueStats, RouteStats
from mailsender.model.records import Record
from mailsender.queue.port import CLOCK_AGE, MOST_PUBLISHERS, PUBLISHERS_BYTES, Inserted
from mailsender.queue.ranks import RouteShares, RouteTime, Shares, flow_of, in_line, in_turn, offset, reached

RETENTION = 30 * 86400.0
"""Seconds for which a reported letter is remembered, unless told otherwise."""

_LOOK_AGAIN = 600.0
"""Seconds after which a letter is looked at again whose body could not go yet."""


@dataclass(slots=True, kw_only=True)
class _Report:
    """A report still to come: whose it is, since when, and about which answers. They are numbered."""

    number: int
    replica: str
    at: float
    answers: tuple[Answer, ...]


@dataclass(slots=True)
class _Entry:
    """A letter and what the queue knows about it. Times are on the monotonic clock.

    `rank` is its place among the fresh ones of its route, None where it has to wait until it is `due`.
    `reports` are those still to come: by which publisher's answer they begin, whose they are, since when, and
    what is to be told.
    """

    letter: Letter
    order: int
    due: float
    rank: float | None = None
    token: str = ""
    settled_by: str = ""
    since: float = 0.0
    reports: dict[Origin | None, _Report] = field(default_factory=dict)
    expires: float | None = None
    noted: frozenset[int] = frozenset()  # under its token


_Heap: TypeAlias = list[tuple[float, int, _Entry]]


class _Waiting:
    """Those of a route that wait: fresh ones by their rank, deferred ones by their time."""

    def __init__(self) -> None:
        self.time = RouteTime()
        self._fresh: _Heap = []
        self._deferred: _Heap = []
        self._deferred_first = False

    def add(self, entry: _Entry) -> None:
        if entry.rank is None:
            heapq.heappush(self._deferred, (entry.due, entry.order, entry))
        else:
            heapq.heappush(self._fresh, (entry.rank, entry.order, entry))

    def remove(self, entry: _Entry) -> None:
        """Take one out."""
        heap = self._deferred if entry.rank is None else self._fresh
        heap[:] = [each for each in heap if each[2] is not entry]
        heapq.heapify(heap)

    def put_off(self, words: tuple[str, ...], after: float, limit: int) -> list[_Entry]:
        """The first `limit` of those that wait for a time later than `after`; see `Queue.put_off`."""
        later = (each for each in self._deferred if each[0] > after and _unasked(each[2], words))
        return [each for _, _, each in heapq.nsmallest(limit, later)]

    def hasten(self, entries: Sequence[_Entry], now: float) -> None:
        """Let these, which are deferred, be due `now`. Among each other they keep their order."""
        theirs = set(map(id, entries))
        self._deferred[:] = [each for each in self._deferred if id(each[2]) not in theirs]
        for each in entries:
            each.due = now
            self._deferred.append((now, each.order, each))
        heapq.heapify(self._deferred)

    def ids(self) -> list[str]:
        """The IDs of those that wait."""
        return [each.letter.id for _, _, each in (*self._fresh, *self._deferred)]

    def take(self, limit: int, now: float) -> list[_Entry]:
        """The next ones that may be sent, one of each kind in turn."""
        kinds = [list(self._popped(heap, limit, now)) for heap in (self._fresh, self._deferred)]
        if all(kinds):
            if self._deferred_first:
                kinds.reverse()
            if limit % 2:
                self._deferred_first = not self._deferred_first
        found = list(in_turn(*kinds))
        for each in found[limit:]:
            self.add(each)
        taken = found[:limit]
        for each in taken:
            if each.rank is not None:
                self.time.served(reached(each.rank, offset(each.letter)))
        return taken

    def _popped(self, heap: _Heap, limit: int, now: float) -> Iterator[_Entry]:
        for _ in range(limit):
            if not heap or (heap is self._deferred and heap[0][0] > now):
                return
            yield heapq.heappop(heap)[2]

    @property
    def head(self) -> float | None:
        """Where the fresh one stands whose turn it is, see `reached`; None where none waits."""
        return reached(self._fresh[0][0], offset(self._fresh[0][2].letter)) if self._fresh else None

    def __len__(self) -> int:
        return len(self._fresh) + len(self._deferred)

    def due(self, now: float) -> int:
        """How many may be sent."""
        return len(self) - self.deferred(now)

    def deferred(self, now: float) -> int:
        """How many wait for a time of their own."""
        return sum(due > now for due, _, _ in self._deferred)

    def ahead(self, entry: _Entry, now: float) -> int | None:
        """How many go before one of them; see `Queue.ahead`."""
        if entry.rank is not None:
            before = sum(rank < entry.rank for rank, _, _ in self._fresh)
            return before + min(before, len(self._deferred) - self.deferred(now))
        if entry.due > now:
            return None
        before = sum(due < entry.due for due, _, _ in self._deferred)
        return before + min(before, len(self._fresh))

    @property
    def since(self) -> float:
        """Since when the first of them may be sent."""
        return min([heap[0][2].due for heap in (self._fresh, self._deferred) if heap], default=math.inf)


def _unasked(entry: _Entry, words: tuple[str, ...]) -> bool:
    results = [each.result for each in entry.letter.recipients if each.result is not None]
    return any(each.code is None and each.text.startswith(words) for each in results)


class MemoryQueue:
    """`Queue` in memory.

    Reported letters are forgotten after `retention` seconds, their bodies after `body_retention` where that
    is not the same.
    """

    def __init__(
        self,
        clock: Clock,
        retention: float = RETENTION,
        body_retention: float | None = None,
    ) -> None:
        self._clock = clock
        self._retention = retention
        self._body_retention = body_retention
        self._bodies: deque[tuple[float, str]] = deque()  # of final letters: when they go
        self._entries: dict[str, _Entry] = {}
        self._shares = Shares()
        self._routes: defaultdict[str, _Waiting] = defaultdict(_Waiting)
        self._over: list[tuple[float, str]] = []  # a heap: when letters are no longer sent, in epoch seconds
        self._claimed: dict[str, _Entry] = {}
        self._replicas: dict[str, float] = {}  # until when, on the monotonic clock
        self._name = ""
        self._names = {""}
        self._unreported: dict[str, _Entry] = {}  # in the order in which they ended
        self._looked_at = -1  # the number of the last report that was found
        self._expiring: deque[tuple[float, str]] = deque()
        self._counts: Counter[Status] = Counter()
        self._records: dict[str, tuple[Record, str, float]] = {}  # and until when, in that order
        self._histories: dict[tuple[str, int], History] = {}
        self._orders = count()

    async def open(self) -> None:
        """See `Queue.open`."""

    async def close(self) -> None:
        """See `Queue.close`."""

    async def now(self, age: float = CLOCK_AGE) -> float:
        """See `Queue.now`. It is the process's own clock."""
        del age  # it is as good as new
        return self._clock.epoch()

    async def history(self, topic: str, partition: int) -> History:
        """See `Queue.history`."""
        return self._histories.get((topic, partition), History())

    async def note_history(self, topic: str, partition: int, history: History) -> None:
        """See `Queue.note_history`."""
        known = self._histories.get((topic, partition), History())
        if (history.log, history.high) >= (known.log, known.high):
            self._histories[topic, partition] = history

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        """See `Queue.insert`. Memory holds whatever a letter holds."""
        self._forget()
        for route in {letter.route for letter in letters}:
            self._look(route)
        chosen = _chosen(letters, claims, now_ms(self._clock.epoch()))
        mine: set[str] = set()
        found: list[Inserted] = []
        for place, letter in enumerate(letters):
            claim = chosen.get(place)
            if claim is None:
                found.append(self._insert(letter))
                continue
            letter_id = letter.id.lower()
            tried_before = letter_id not in mine and self._held(letter_id, claim.token) is not None
            verdict = self._insert(letter, claim)
            if verdict is Inserted.NEW or (verdict is Inserted.REPLAY and tried_before):
                verdict = Inserted.CLAIMED
                mine.add(letter_id)
            found.append(verdict)
        return found

    async def join(self, replica: str, life: float) -> None:
        """See `Queue.join`."""
        self._names.add(replica)
        self._name = replica
        self._replicas[replica] = self._clock.monotonic() + life

    async def beat(self, replica: str, life: float) -> bool:
        """See `Queue.beat`."""
        known = replica in self._replicas
        if known:
            self._replicas[replica] = self._clock.monotonic() + life
        return known

    async def leave(self, replica: str) -> None:
        """See `Queue.leave`."""
        self._replicas.pop(replica, None)

    async def living(self) -> set[str]:
        """See `Queue.living`."""
        return set(self._replicas)

    async def claim(self, limit: int, token: str, route: str = DEFAULT_ROUTE) -> Claim:
        """See `Queue.claim`."""
        entries = self._routes[route].take(limit, self._clock.monotonic())
        claim = self._take(entries, token)
        return Claim(token=token, letters=claim.letters, places=in_line([each.rank for each in entries]))

    def share(self, routes: Mapping[str, RouteShares]) -> None:
        """See `Queue.share`."""
        self._shares.use(routes)

    async def claim_expired(self, limit: int, token: str) -> Claim:
        """See `Queue.claim_expired`."""
        over: list[_Entry] = []
        on_their_way: list[tuple[float, str]] = []
        while self._over and self._over[0][0] <= self._clock.epoch() and len(over) < limit:
            place = heapq.heappop(self._over)
            entry = self._entries.get(place[1])
            if entry is not None and entry.letter.status is Status.AWAITING:
                self._routes[entry.letter.route].remove(entry)
                over.append(entry)
            if entry is not None and not entry.letter.status.final:
                on_their_way.append(place)  # it may be given back
        for place in on_their_way:
            heapq.heappush(self._over, place)
        return self._take(over, token)

    def _take(self, entries: Sequence[_Entry], token: str) -> Claim:
        for entry in entries:
            entry.token = token
            self._change(entry, entry.letter.evolve(status=Status.PROCESSING))
            self._claimed[entry.letter.id] = entry
        return Claim(token=token, letters=tuple(entry.letter for entry in entries))

    async def settle(self, settlements: Sequence[Settlement]) -> frozenset[str]:
        """See `Queue.settle`."""
        now = self._clock.monotonic()
        late = set()
        for each in settlements:
            entry = self._held(each.letter.id, each.token)
            if entry is None:
                known = self._entries.get(each.letter.id)
                if known is None or known.settled_by != each.token:
                    late.add(each.letter.id)
                continue
            entry.settled_by = each.token
            # Publishers may have joined since the claim: answers are the queue's own.
            held = entry.letter
            letter = each.letter.evolve(answers=held.answers, answered=held.answered)
            if each.letter.status is Status.AWAITING:
                entry.due, entry.rank = now + each.delay, None
                self._put_back(entry, letter)
            else:
                self._unclaim(entry)
                self._change(entry, letter)
                self._ended(entry)
        return frozenset(late)

    async def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> bool:
        """See `Queue.progress`."""
        entry = self._held(letter_id, token)
        if entry is None:
            return False
        recipients = list(entry.letter.recipients)
        for place, recipient in changed.items():
            recipients[place] = recipient
        entry.letter = entry.letter.evolve(recipients=tuple(recipients))
        entry.noted |= changed.keys()
        return True

    async def release(self, token: str, ids: Sequence[str]) -> None:
        """See `Queue.release`."""
        for each in ids:
            entry = self._held(each, token)
            if entry is not None:
                self._put_back(entry, entry.letter)

    async def routes(self) -> list[str]:
        """See `Queue.routes`."""
        return sorted(name for name, waiting in self._routes.items() if waiting.ids())

    async def waiting(self, route: str, limit: int) -> list[str]:
        """See `Queue.waiting`."""
        return self._routes[route].ids()[:limit] if route in self._routes else []

    async def look_at(self, ids: Sequence[str]) -> list[Letter]:
        """See `Queue.look_at`."""
        found = [self._entries[each].letter for each in ids if each in self._entries]
        return [each for each in found if each.status is Status.AWAITING]

    async def move(self, ids: Sequence[str], origin: str, route: str) -> int:
        """See `Queue.move`."""
        wanted = set(ids).intersection(await self.waiting(origin, len(self._entries)))
        self._look(route)
        for entry in sorted(
            [self._entries[each] for each in wanted], key=lambda one: (one.rank or 0.0, one.order)
        ):
            self._routes[origin].remove(entry)
            entry.letter = entry.letter.evolve(route=route)
            if entry.rank is not None:
                entry.rank = self._place(entry.letter)
            self._routes[route].add(entry)
        return len(wanted)

    async def put_off(
        self, route: str, words: Sequence[str], after: float, limit: int
    ) -> list[tuple[str, float]]:
        """See `Queue.put_off`."""
        apart = self._clock.epoch() - self._clock.monotonic()
        waiting = self._routes.get(route)
        found = [] if waiting is None else waiting.put_off(tuple(words), after - apart, limit)
        return [(each.letter.id, each.due + apart) for each in found]

    async def hasten(self, ids: Sequence[str]) -> int:
        """See `Queue.hasten`."""
        now = self._clock.monotonic()
        found: defaultdict[str, list[_Entry]] = defaultdict(list)
        for entry in filter(None, map(self._entries.get, ids)):
            if entry.letter.status is Status.AWAITING and entry.rank is None and entry.due > now:
                found[entry.letter.route].append(entry)
        for route, entries in found.items():
            self._routes[route].hasten(entries, now)
        return sum(map(len, found.values()))

    async def held(self, claims: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        """See `Queue.held`."""
        found = {
            token: [entry.letter for each in ids if (entry := self._held(each, token))]
            for token, ids in claims.items()
        }
        return {token: letters for token, letters in found.items() if letters}

    async def noted(self, claims: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
        """See `Queue.noted`."""
        held = [self._held(each, token) for token, ids in claims.items() for each in ids]
        return {each.letter.id: each.noted for each in held if each is not None and each.noted}

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        """See `Queue.claims_of`."""
        claims: dict[str, list[str]] = {}
        for entry in self._claimed.values():
            if entry.token.startswith(replica):
                claims.setdefault(entry.token, []).append(entry.letter.id)
        return claims

    async def reclaim(self, limit: int, within: float = math.inf, by: float = math.inf) -> int:
        """See `Queue.reclaim`."""
        del within  # it is done at once
        now = min(self._clock.monotonic(), by - (self._clock.epoch() - self._clock.monotonic()))
        for replica in [each for each, until in self._replicas.items() if until <= now]:
            del self._replicas[replica]
        lost = (entry for entry in self._claimed.values() if replica_of(entry.token) not in self._replicas)
        freed = list(islice(lost, limit))
        for entry in freed:
            self._put_back(entry, entry.letter)
        return len(freed)

    async def unreported(self, older_than: float, limit: int) -> list[Letter]:
        """See `Queue.unreported`."""
        since = self._clock.monotonic() - older_than
        found: list[tuple[int, Letter]] = []
        for entry in list(self._unreported.values()):
            if not entry.letter.status.final:
                continue  # somebody joined it on its way
            for report in entry.reports.values():
                ours = report.replica in self._names
                due = report.at <= since if ours else report.replica not in self._replicas
                if due and report.number > self._looked_at:
                    found.append((report.number, entry.letter.evolve(answers=report.answers)))
        found = sorted(found, key=itemgetter(0))[:limit]
        self._looked_at = found[-1][0] if len(found) == limit else -1
        return [letter for _, letter in found]

    async def remember(self, limit: int) -> int:
        """See `Queue.remember`. What has a report to come stays all the same."""
        del limit
        return 0

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """See `Queue.acknowledge`."""
        for letter in letters:
            entry = self._unreported.get(letter.id)
            if entry is not None:
                entry.reports.pop(letter.answers[0].origin, None)
                if not entry.reports:
                    del self._unreported[letter.id]

    async def drop_bodies(self, limit: int) -> int:
        """See `Queue.drop_bodies`."""
        now, seen = self._clock.monotonic(), 0
        while self._bodies and self._bodies[0][0] <= now and seen < limit:
            _, each = self._bodies.popleft()
            entry = self._entries.get(each)
            seen += 1
            if entry is None or not entry.letter.status.final:
                continue
            if entry.reports:
                self._bodies.append((now + _LOOK_AGAIN, each))
                continue
            stored = entry.letter
            entry.letter = stored.evolve(
                body="", mail=without_texts(stored.mail), digest=stored.content, bare=True
            )
        return seen

    def names(self, ref: str) -> bool:
        """Whether a letter that may need it names this blob: for `mailsender.blobs.memory`."""
        letters = (entry.letter for entry in self._entries.values())
        return any(ref in named_in(each.mail) for each in letters)

    async def get(self, letter_id: str) -> Letter | None:
        """See `Queue.get`."""
        entry = self._entries.get(letter_id.lower())
        return entry.letter if entry else None

    async def look_up(self, letter_id: str) -> StoredLetter | None:
        """See `Queue.look_up`."""
        entry = self._entries.get(letter_id.lower())
        if entry is None:
            return None
        due = now_ms(self._clock.epoch() + entry.due - self._clock.monotonic())
        awaits = entry.letter.status is Status.AWAITING
        told = len(entry.letter.answers) if entry.letter.status.final and not entry.reports else 0
        return StoredLetter(
            letter=entry.letter.evolve(answered=told),
            accepted_at=now_ms(entry.since),
            due=due if awaits else None,
        )

    async def ahead(self, letter_id: str, most: int) -> int | None:
        """See `Queue.ahead`."""
        entry = self._entries.get(letter_id.lower())
        if entry is None or entry.letter.status is not Status.AWAITING:
            return None
        waiting, now = self._routes[entry.letter.route], self._clock.monotonic()
        ahead = waiting.ahead(entry, now)
        return None if ahead is None else min(most, ahead)

    async def ended(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Queue.ended`."""
        found = {each: self._entries.get(each) for each in ids}
        return frozenset(each for each, entry in found.items() if entry and entry.letter.status.final)

    async def stats(self) -> QueueStats:
        """See `Queue.stats`."""
        now = self._clock.monotonic()
        return QueueStats(
            awaiting=self._counts[Status.AWAITING],
            due=sum(each.due(now) for each in self._routes.values()),
            processing=self._counts[Status.PROCESSING],
            sent=self._counts[Status.SENT],
            error=self._counts[Status.ERROR],
            unreported=sum(len(entry.reports) for entry in self._unreported.values()),
            oldest_due=max((0.0, *(now - each.since for each in self._routes.values()))),
            oldest_unreported=max(
                [0.0, *(now - one.at for each in self._unreported.values() for one in each.reports.values())]
            ),
            routes={
                name: RouteStats(
                    awaiting=len(each),
                    deferred=each.deferred(now),
                    oldest_due=max(0.0, now - each.since),
                )
                for name, each in sorted(self._routes.items(), key=lambda one: -len(one[1]))[:MOST_ROUTES]
                if len(each)
            },
        )

    async def keep_record(self, record: Record, reason: str) -> str:
        """See `Queue.keep_record`."""
        self._forget()
        digest = digest_of(record.key, record.value, record.timestamp)
        where = f"memory/{record.topic}/{record.partition}/{record.offset}/{digest}"
        self._records.pop(where, None)
        self._records[where] = (record, reason, self._clock.monotonic() + self._retention)
        return where

    # --- what the calls above are made of ---

    def _insert(self, letter: Letter, claim: FreshClaim | None = None) -> Inserted:
        entry = self._entries.get(letter.id.lower())
        if entry is not None:
            return self._join(entry, letter)
        entry = _Entry(letter=_as_stored(letter), order=next(self._orders), due=self._clock.monotonic())
        entry.since = self._clock.epoch()
        if letter.status.final:
            finished_at = letter.finished_at or now_ms(self._clock.epoch())
            entry.letter = entry.letter.evolve(finished_at=finished_at)
            self._ended(entry)
        else:
            self._rank(entry)
            if claim is None:
                self._routes[letter.route].add(entry)
            else:
                entry.token, self._claimed[entry.letter.id] = claim.token, entry
                entry.letter = entry.letter.evolve(status=Status.PROCESSING)
            if letter.expires is not None:
                heapq.heappush(self._over, (letter.expires.timestamp(), entry.letter.id))
        self._entries[entry.letter.id] = entry
        self._counts[entry.letter.status] += 1
        return Inserted.NEW

    def _join(self, entry: _Entry, letter: Letter) -> Inserted:
        stored, answer = entry.letter, letter.answers[0]
        if stored.content != letter.content:
            return Inserted.TAKEN if letter.id_computed else Inserted.CLASH
        if any(each.origin == answer.origin for each in stored.answers):
            return Inserted.REPLAY
        if crowded(stored.answers[1:], answer):
            return Inserted.CROWDED
        entry.letter = stored.evolve(answers=(*stored.answers, answer))
        if stored.status is Status.AWAITING:
            return Inserted.JOINED
        self._report(entry, (answer,))
        return Inserted.LATE

    def _look(self, route: str) -> None:
        waiting = self._routes[route]
        waiting.time.look(waiting.head, self._clock.monotonic())

    def _rank(self, entry: _Entry) -> None:
        """Give a letter that comes in its place."""
        letter, later = entry.letter, entry.letter.handling.not_before
        wait = 0.0 if later is None else later.timestamp() - self._clock.epoch()
        if wait > 0:
            entry.due += wait
            return
        entry.rank = self._place(letter)

    def _place(self, letter: Letter) -> float:
        """The place of one that comes to its route now."""
        flow = flow_of(letter)
        step = self._shares.step(letter.route, flow)
        return self._routes[letter.route].time.place(flow, step) + offset(letter)

    def _held(self, letter_id: str, token: str) -> _Entry | None:
        entry = self._claimed.get(letter_id)
        return entry if entry is not None and entry.token == token else None

    def _unclaim(self, entry: _Entry) -> None:
        del self._claimed[entry.letter.id]
        entry.token, entry.noted = "", frozenset()

    def _put_back(self, entry: _Entry, letter: Letter) -> None:
        self._unclaim(entry)
        self._change(entry, letter.evolve(status=Status.AWAITING))
        self._routes[letter.route].add(entry)

    def _change(self, entry: _Entry, letter: Letter) -> None:
        self._counts[entry.letter.status] -= 1
        self._counts[letter.status] += 1
        entry.letter = letter

    def _ended(self, entry: _Entry) -> None:
        """It is final: its publishers get their reports, and it is remembered for a while."""
        self._report(entry, entry.letter.answers)
        entry.expires = self._clock.monotonic() + self._retention
        self._expiring.append((entry.expires, entry.letter.id))
        if self._body_retention is not None:
            self._bodies.append((self._clock.monotonic() + self._body_retention, entry.letter.id))

    def _report(self, entry: _Entry, answers: tuple[Answer, ...]) -> None:
        replica = replica_of(entry.settled_by) or self._name
        report = _Report(
            number=next(self._orders), replica=replica, at=self._clock.monotonic(), answers=answers
        )
        entry.reports[answers[0].origin] = report
        self._unreported[entry.letter.id] = entry

    def _forget(self) -> None:
        """Drop what is kept no longer; letters with a report to come stay for as long again."""
        now = self._clock.monotonic()
        while self._records and (first := next(iter(self._records.items())))[1][2] <= now:
            del self._records[first[0]]
        while self._expiring and self._expiring[0][0] <= now:
            expires, each = self._expiring.popleft()
            entry = self._entries.get(each)
            if entry is None or entry.expires != expires:
                continue
            if entry.reports:
                entry.expires = now + self._retention
                self._expiring.append((entry.expires, each))
            else:
                self._counts[entry.letter.status] -= 1
                del self._entries[each]


def _chosen(letters: Sequence[Letter], claims: Sequence[FreshClaim], now: datetime) -> dict[int, FreshClaim]:
    """Which letters come in as claimed, by their places."""
    chosen: dict[int, FreshClaim] = {}
    for claim in claims:
        sendable = [
            place
            for place, each in enumerate(letters)
            if each.route == claim.route and each.status is Status.AWAITING and not _later(each, now)
        ]
        sendable.sort(key=lambda place: offset(letters[place]))
        chosen |= dict.fromkeys(sendable[: claim.limit], claim)
    return chosen


def _later(letter: Letter, now: datetime) -> bool:
    """Whether it may not be sent yet."""
    return letter.handling.not_before is not None and letter.handling.not_before > now


def crowded(sharing: Sequence[Answer], another: Answer) -> bool:
    """Whether `another` publisher finds no room beside those who share a letter with the first."""
    held = sum(each.size for each in sharing) + another.size
    return len(sharing) >= MOST_PUBLISHERS or held > PUBLISHERS_BYTES


def _as_stored(letter: Letter) -> Letter:
    """The letter as it comes back from a queue: its ID in lower case, with recipients."""
    answer = letter.answers[0]
    return letter.evolve(
        id=letter.id.lower(),
        recipients=letter.recipients or tuple(Recipient(address=each) for each in letter.addresses),
        answers=(Answer(token=answer.token, key=answer.key, origin=answer.origin),),
    )
