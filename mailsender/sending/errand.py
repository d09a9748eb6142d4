"""A letter on its way through one or more transactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from mailsender.message.composer import Filling, OnePersonsFault
from mailsender.message.mail import NO_CONTENTS, Mail
from mailsender.message.parts import Base64
from mailsender.model.clock import Clock
from mailsender.model.letter import Envelope, Letter, PastAttempt, Result, Verdict
from mailsender.ratelimit.gcra import Slot
from mailsender.routing.pool import NO_LIMIT, Held
from mailsender.routing.relay import Relay
from mailsender.sending.attempt import refused
from mailsender.sending.permit import Permit as BegunPermit
from mailsender.sending.scopes import NOTHING
from mailsender.smtp.port import NotBegun, Permit, Session

log = structlog.get_logger()


NOBODY: Final[frozenset[str]] = frozenset()
"""Those who are switched of nearly all letters."""


class Anew(Exception):  # noqa: N818  a state, not a mistake
    """A transaction has to be put together anew: not all of its recipients may be sent to now."""


class Errand:
    """One letter on its way over a relay: who is left to be sent to, and what was said of the others.

    `tried` are the relays that it was given to before this one, which certainly did not take those who are
    left; `by` names the relay of each result from then on, and `heard` is the one that was heard last.
    `elsewhere` are those who take other routes.

    `idle` are those of whom nothing was learnt, for `pause` seconds. `waits` has the seconds for which others
    are to wait at least. `failed` has, of those whom a rule failed, after how many such refusals an address
    is suppressed; from the refusals of those who are `unlearned` nothing is learned. `switched` are those
    for whom a rule wants another relay, `staying` those who are to wait for this one by a rule about them or
    their destination. `doubtful` were refused in words that may be meant for everybody.
    `taken`: this relay took it for somebody. `renewed` counts the sessions in a row that ended under it.
    `short` tells that it ended before all were asked. `held` and `slot` are for its next transaction, as far
    as it has them. `contents` are those of its attachments. `trial`: it may begin though the breaker of its
    relay is open, to show whether letters are taken again.
    `filling` is what each message of a personal letter is rendered with, None where it has no template.
    `mail` is what its further keys say, held so that it is read once. `permit` is that of its first
    transaction over this relay, `past` what came of those before.
    """

    __slots__ = (
        "at",
        "by",
        "contents",
        "doubtful",
        "elsewhere",
        "failed",
        "filling",
        "heard",
        "held",
        "idle",
        "left",
        "letter",
        "mail",
        "past",
        "pause",
        "permit",
        "places",
        "relay",
        "renewed",
        "results",
        "short",
        "size",
        "slot",
        "staying",
        "switched",
        "taken",
        "token",
        "trial",
        "tried",
        "unlearned",
        "waits",
    )

    def __init__(
        self, token: str, letter: Letter, relay: Relay, held: Held, slot: Slot, *, trial: bool = False
    ) -> None:
        self.token = token
        self.trial = trial
        self.relay = relay
        self.held: Held | None = held
        self.slot: Slot | None = slot
        self.letter = letter
        self.left = letter.pending
        self.size = relay.policy.max_recipients
        self.results: dict[str, Result] = {}
        self.idle: set[str] = set()
        self.waits: dict[str, float] | None = None
        self.failed: dict[str, int] | None = None
        self.unlearned: frozenset[str] = NOBODY
        self.switched: frozenset[str] = NOBODY
        self.staying: frozenset[str] = NOBODY
        self.doubtful: dict[str, Result] = {}
        self.contents: Mapping[str, Base64] = NO_CONTENTS
        self.pause = 0.0
        self.renewed = 0
        self.short = False
        self.taken = False
        self.filling: Filling | None = None
        self.mail: Mail | None = None
        self.permit: BegunPermit | None = None
        self.past: tuple[PastAttempt, ...] = ()
        self.places: dict[str, int] | None = None
        self.at: dict[str, list[int]] | None = None
        self.tried: tuple[Relay, ...] = ()
        self.by: dict[str, str] | None = None
        self.heard: Relay = relay
        self.elsewhere = False

    def turn_to(self, addresses: tuple[str, ...], relay: Relay) -> None:
        """Go on with `addresses` over another relay: what is known of this one says nothing of that.

        Only those may be among them whom no relay can have taken.
        """
        self.give_back()
        if self.by is None:
            self.by = dict.fromkeys(self.results, self.relay.told)
        self.tried = (*self.tried, self.relay)
        self.relay = relay
        self.permit = None
        self.trial = False
        self.left = addresses
        self.size = 1 if self.mail is not None and self.mail.personal else relay.policy.max_recipients
        self.taken = self.short = False
        self.renewed = 0

    def note(self, part: tuple[str, ...]) -> None:
        """Something is said of `part` now, by its relay: what was said of them before is over."""
        self.heard = self.relay
        if self.by is not None:
            self.by.update(dict.fromkeys(part, self.relay.told))
            self.idle.difference_update(part)
            self.switched = self.switched.difference(part)
            if self.waits:
                self.waits = {each: wait for each, wait in self.waits.items() if each not in part}

    def took(self) -> None:
        """The relay took it for somebody: in a good session, and what it refused before was not for all."""
        self.taken, self.renewed = True, 0
        if self.doubtful:
            self.results |= self.doubtful
            self.doubtful = {}

    def fresh_first(self) -> None:
        """Ask about those first of whom nothing was said yet.

        Who is refused again and again would keep them waiting, and they tell whether it is for itself.
        """
        if self.letter.message_id and len(self.left) > 1:  # it was tried before
            heard = {each.address for each in self.letter.recipients if each.result is not None}
            self.left = tuple(sorted(self.left, key=heard.__contains__))

    @property
    def unasked(self) -> bool:
        """Whether no relay was asked: all that is said of the letter is our own word."""
        return self.permit is None and not self.tried

    @property
    def senders(self) -> tuple[str, ...]:
        """The addresses that it is sent in the name of: the service's where it names none itself."""
        named = () if self.mail is None else tuple([address.text for _, address in self.mail.senders])
        return named or (self.relay.policy.reverse_path,)

    def expired(self, clock: Clock) -> bool:
        """Whether its time to be sent is over."""
        expires = self.letter.expires
        return expires is not None and expires.timestamp() <= clock.epoch()

    @property
    def accepted(self) -> bool:
        """Whether nobody is left, and a relay accepted all others: nothing goes elsewhere then."""
        return not self.left and all(each.verdict is Verdict.ACCEPTED for each in self.results.values())

    def switch(self, addresses: Iterable[str]) -> None:
        """Let them go over another relay of the route: this one certainly did not take them."""
        self.switched = self.switched.union(addresses)

    def stay(self, address: str) -> None:
        """Give this one to no other relay in this attempt."""
        self.staying = self.staying.union((address,))

    @property
    def room(self) -> int:
        """Recipients that the relay takes in one transaction of its session, as far as is known."""
        return NO_LIMIT if self.held is None else self.held.room

    @property
    def wanted(self) -> int:
        """How many recipients may be in its next transaction, if its slot is for as many."""
        return min(self.size, self.room)

    @property
    def part(self) -> tuple[str, ...]:
        """Those for its next transaction: as many as fit, who share the limits of their destination."""
        part = self.left[: self.wanted if self.slot is None else min(self.wanted, self.slot.recipients)]
        destinations = self.relay.destinations
        return part if destinations is None or not destinations.limited else part[: destinations.alike(part)]

    @property
    def session(self) -> Session:
        """The session for its next transaction."""
        if self.held is None:
            raise RuntimeError("there is no session")
        return self.held.session

    def expect(self, recipients: int) -> None:
        """See that the slot is for so many.

        Raises:
            Anew: it is not: it came in the place of one that lapsed.
        """
        if self.slot is not None and self.slot.recipients < recipients:
            raise Anew

    def take(self) -> tuple[Held, Slot]:
        """The session and the slot, for a transaction that begins now."""
        held, slot = self.held, self.slot
        if held is None or slot is None:
            raise RuntimeError("there is no session, or no slot")
        self.held = self.slot = None
        return held, slot

    def give_back(self) -> None:
        """Let others have what it has and does not need."""
        if self.held is not None:
            self.relay.pool.leave(self.held)
            self.held = None
        if self.slot is not None:
            self.relay.limiter.put_back(self.slot)
            self.slot = None

    def retire(self) -> None:
        """Let nobody have its session."""
        if self.held is not None:
            self.relay.pool.leave(self.held, usable=False)
            self.held = None

    def runs(self, part: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """The places of `part` among all recipients of the letter."""
        if len(part) == len(self.letter.recipients):
            return ((0, len(part)),)
        if self.places is None:
            self.places = {each: place for place, each in enumerate(self.letter.everybody)}
        runs: list[tuple[int, int]] = []
        for each in part:
            place = self.places[each]
            if runs and runs[-1][0] + runs[-1][1] == place:
                runs[-1] = runs[-1][0], runs[-1][1] + 1
            else:
                runs.append((place, 1))
        return tuple(runs)

    def places_of(self, part: tuple[str, ...]) -> list[int]:
        """The places of `part` in `Letter.recipients`, where an address may stand more than once."""
        if self.at is None:
            self.at = {}
            for place, each in enumerate(self.letter.recipients):
                self.at.setdefault(each.address, []).append(place)
        return [place for each in part for place in self.at[each]]


class Said:
    """What a transaction came to. `good`: all were accepted. `carried`: the session had carried letters.

    `put_off` is what was said of one of them where all were put off with a 4xx. `since` is the number of
    refusals of the relay when it began. `obeyed` is what was ordered in it, and is done.
    """

    __slots__ = ("carried", "good", "held", "obeyed", "put_off", "results", "since")

    def __init__(
        self,
        results: Mapping[str, Result],
        held: Held,
        *,
        good: bool,
        carried: bool,
        since: int,
        put_off: Result | None = None,
    ) -> None:
        self.results = results
        self.since = since
        self.put_off = put_off
        self.held = held
        self.good = good
        self.carried = carried
        self.obeyed = NOTHING


async def carry(
    relay: Relay,
    held: Held,
    envelope: Envelope,
    message: bytes | tuple[bytes, ...],
    permit: Permit,
) -> Said | None:
    """One transaction over a session, which is closed when it was the last; None: nothing came of it."""
    since = relay.refusals.number
    relay.pool.begin(held)
    try:
        outcome = await held.session.transact(envelope, message, permit)
    except NotBegun:
        outcome = None
    except BaseException:
        relay.pool.leave(held, usable=False)
        raise
    if outcome is None:
        relay.pool.leave(held)
        return None
    good, some, carried = True, False, held.taken > 0
    put_off: Result | None = None
    for each in outcome.results.values():
        if each.verdict is Verdict.ACCEPTED:
            some = True
        else:
            good = False
            put_off = each
    if good:
        relay.accepted += len(outcome.results)
    else:
        relay.count(outcome.results.values())
    if some:
        held.taken += 1
        if relay.uneasy:
            relay.took(max(since, held.refused))
    relay.pool.leave(held, usable=outcome.session_usable)
    if put_off is not None and (some or not _all_put_off(outcome.results)):
        put_off = None
    return Said(outcome.results, held, good=good, carried=carried, since=since, put_off=put_off)


def _all_put_off(results: Mapping[str, Result]) -> bool:
    return all(each.verdict is Verdict.DEFERRED and each.code is not None for each in results.values())


def ends(errand: Errand, part: tuple[str, ...], error: Exception) -> bool:
    """Whether a letter ends here for what was raised; raises it where nothing was sent yet.

    Where it ends what earlier slices came to stays true; the others are refused, with the reason.
    """
    if isinstance(error, Anew):
        return False
    if isinstance(error, OnePersonsFault):
        errand.results |= refused(part, error)
        errand.left = errand.left[len(part) :]
        return False
    if not errand.results:
        raise error
    log.error("slice_raised", letter=errand.letter.id, exc_info=error, action="the others are refused")
    errand.results |= refused(errand.left, error)
    return True
