"""A letter on its way through one or more transactions."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from mailsender.message.composer import Filling, OnePersonsFault
from mailsender.message.mail import NO_CONTENTS, Mail
from mailsender.message.parts import Base64
from mailsender.model.letter import Envelope, Letter, Result, Verdict
from mailsender.ratelimit.gcra import Slot
from mailsender.routing.pool import NO_LIMIT, Held
from mailsender.routing.relay import Relay
from mailsender.sending.attempt import refused
from mailsender.sending.permit import Permit as BegunPermit
from mailsender.smtp.port import NotBegun, Permit, Session

log = structlog.get_logger()


class Errand:
    """One letter on its way over a relay: who is left to be sent to, and what was said of the others.

    `idle` are those of whom nothing was learnt, for `pause` seconds. `doubtful` were refused in words that
    may be meant for everybody. `short` tells that it ended before all were asked. `held` and `slot` are for
    its next transaction, as far as it has them. `contents` are those of its attachments. `filling` is what
    each message of a personal letter is rendered with, None where it has no template. `mail` is what its
    further keys say, held so that it is read once. `permit` is that of its first transaction.
    """

    __slots__ = (
        "at",
        "contents",
        "doubtful",
        "filling",
        "held",
        "idle",
        "left",
        "letter",
        "mail",
        "pause",
        "permit",
        "places",
        "relay",
        "renewed",
        "results",
        "short",
        "size",
        "slot",
        "taken",
        "token",
    )

    def __init__(self, token: str, letter: Letter, relay: Relay, held: Held, slot: Slot) -> None:
        self.token = token
        self.relay = relay
        self.held: Held | None = held
        self.slot: Slot | None = slot
        self.letter = letter
        self.left = letter.pending
        self.size = relay.policy.max_recipients
        self.results: dict[str, Result] = {}
        self.idle: set[str] = set()
        self.doubtful: dict[str, Result] = {}
        self.contents: Mapping[str, Base64] = NO_CONTENTS
        self.pause = 0.0
        self.renewed = 0
        self.short = False
        self.taken = False
        self.filling: Filling | None = None
        self.mail: Mail | None = None
        self.permit: BegunPermit | None = None
        self.places: dict[str, int] | None = None
        self.at: dict[str, list[int]] | None = None

    @property
    def room(self) -> int:
        """Recipients that the relay takes in one transaction of its session, as far as is known."""
        return NO_LIMIT if self.held is None else self.held.room

    @property
    def session(self) -> Session:
        """The session for its next transaction."""
        if self.held is None:
            raise RuntimeError("there is no session")
        return self.held.session

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
    """What a transaction came to. `good`: all were accepted. `carried`: the session had carried letters."""

    __slots__ = ("carried", "good", "held", "results")

    def __init__(self, results: Mapping[str, Result], held: Held, *, good: bool, carried: bool) -> None:
        self.results = results
        self.held = held
        self.good = good
        self.carried = carried


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
    for each in outcome.results.values():
        if each.verdict is Verdict.ACCEPTED:
            some = True
        else:
            good = False
    if good:
        relay.accepted += len(outcome.results)
    else:
        relay.count(outcome.results.values())
    if some:
        held.taken += 1
        if relay.uneasy:
            relay.took(max(since, held.refused))
    relay.pool.leave(held, usable=outcome.session_usable)
    return Said(outcome.results, held, good=good, carried=carried)


def ends(errand: Errand, part: tuple[str, ...], error: Exception) -> bool:
    """Whether a letter ends here for what was raised; raises it where nothing was sent yet.

    Where it ends what earlier slices came to stays true; the others are refused, with the reason.
    """
    if isinstance(error, OnePersonsFault):
        errand.results |= refused(part, error)
        errand.left = errand.left[len(part) :]
        return False
    if not errand.results:
        raise error
    log.error("slice_raised", letter=errand.letter.id, exc_info=error, action="the others are refused")
    errand.results |= refused(errand.left, error)
    return True
