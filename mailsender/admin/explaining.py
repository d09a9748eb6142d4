"""Why a letter is where it is: the way that it takes, and what stands in it now, as this replica sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailsender.admin.endings import MOST_SAID, ending, suppressed, words
from mailsender.message.mail import Mail
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Recipient, Status, StoredLetter, now_ms
from mailsender.model.text import counted
from mailsender.routing.obstacles import Kind, Moment, Obstacle, of_recipient, of_relay, of_window, time_of
from mailsender.routing.relay import Relay
from mailsender.routing.routes import table_of
from mailsender.routing.table import traits_of
from mailsender.routing.way import Way, way_of
from mailsender.service import Replica
from mailsender.suppression.port import Entry
from mailsender.web.explain_models import AddresseeView, ExplainedView, ObstacleView, StopView, WayView

MOST_AHEAD: Final = 10_000
"""Letters before it that are counted: of more it is enough to know that they are many."""

MOST_RECIPIENTS: Final = 100
"""Recipients of a letter that are looked at one by one: more than a person reads."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """A way of some recipients, and what stops all letters over its relays now, relay by relay."""

    way: Way
    recipients: int
    stops: Mapping[str, Sequence[Obstacle]]

    @property
    def blocked(self) -> bool:
        """Whether no relay of it goes."""
        return all(self.stops.values())


class Explaining:
    """Answers for one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def explain(self, letter_id: str) -> ExplainedView | None:
        """What there is to say of a letter; None where the queue has none of this ID.

        Raises:
            Unavailable: MongoDB is away.
        """
        replica = self._replica
        if replica.opening.text:
            raise Unavailable(replica.opening.text)
        found = await replica.parts.queue.look_up(letter_id)
        if found is None:
            return None
        if found.letter.status.final:
            return _view(found, ending(found.letter, await self._entries(found.letter)))
        addresses = found.letter.pending[:MOST_RECIPIENTS]
        entries = await replica.suppression.met(found.letter, addresses)
        ahead = await replica.parts.queue.ahead(letter_id, MOST_AHEAD)
        return self._explained(found, entries, ahead)

    async def _entries(self, letter: Letter) -> Mapping[str, Entry] | None:
        """What the list says now of those to whom a letter was not sent because of it; None: not known."""
        hit = [each.address for each in letter.recipients if suppressed(each)]
        try:
            return await self._replica.suppression.met(letter, hit[:MOST_RECIPIENTS])
        except Unavailable:
            return None

    def _explained(
        self, found: StoredLetter, entries: Mapping[str, Entry], ahead: int | None
    ) -> ExplainedView:
        letter = found.letter
        case = _Case(self._replica, found)
        whole = list(case.whole(ahead)) if letter.status is Status.AWAITING else list(case.here())
        people = [case.addressee(each, entries.get(each.address)) for each in _open(letter)[:MOST_RECIPIENTS]]
        return _view(
            found,
            [*case.stand(), *_sentences(letter, whole, people)],
            ahead=ahead,
            ways=[_way(leg) for leg in case.legs.values()],
            obstacles=whole,
            people=people,
        )


class _Case:
    """A letter that is not done, its ways, and the relays as they are at this moment.

    `legs` are the ways of its open recipients by their routes, that on which it stands first.
    """

    def __init__(self, replica: Replica, found: StoredLetter) -> None:
        self._replica = replica
        self._found = found
        self._letter = letter = found.letter
        self._now = now = Moment(epoch=replica.clock.epoch(), monotonic=replica.clock.monotonic())
        self._relays = relays = {relay.name: relay for relay in replica.relays}
        service = replica.settings.sender[1]
        self._table = table_of(replica.plan, service)
        self._traits = traits = traits_of(letter, service)
        self._mail = _mail(replica, letter)
        parts = self._table.parts(letter, letter.pending)
        self.legs: dict[str, _Leg] = {}
        for route in sorted(parts, key=lambda name: name != letter.route):
            way = way_of(replica.plan, traits, next(iter(parts[route]), ""))
            stops = {each.relay.name: list(of_relay(relays[each.relay.name], now)) for each in way.stops}
            self.legs[route] = _Leg(way, len(parts[route]), stops)

    def stand(self) -> Iterator[str]:
        """Where it is, and which way it takes."""
        letter = self._letter
        if letter.status is Status.AWAITING:
            yield f"It waits on the route {letter.route}."
        elif self._replica.in_flight.token(letter.id) is not None:
            yield "This replica has it in hand: it is sent now, or at its turn among those in hand."
        else:
            yield "Another replica has it in hand; that one can say more."
        for route, leg in self.legs.items():
            people = counted(leg.recipients, "recipient")
            yield f"{people} by the route {route} ({leg.way.why}) over {_told(leg.way)}."
        if letter.expires is not None and (end := letter.expires.timestamp()) > self._now.epoch:
            yield f"It expires at {time_of(end)}: if it is not sent before, it is an error."

    def whole(self, ahead: int | None) -> Iterator[Obstacle]:
        """What stands in the way of all of it, while it waits."""
        letter, legs, now, due = self._letter, self.legs, self._now.epoch, self._found.due
        if letter.expires is not None and letter.expires.timestamp() <= now:
            text = "Its time to be sent is over: it is reported as expired within seconds."
            yield Obstacle(kind=Kind.EXPIRED, text=text)
        if letter.route not in legs and legs:
            why = (
                "is not the one of its recipients now"
                if letter.route in self._table.names
                else "is none here"
            )
            text = (
                f"The route {letter.route} on which it waits {why}: it is routed anew, to {', '.join(legs)}."
            )
            yield Obstacle(kind=Kind.ROUTE, text=text)
        if due is not None and due.timestamp() > now:
            text = f"It is due at {time_of(due.timestamp())}{_because(letter)}"
            yield Obstacle(kind=Kind.DUE, text=text, until=due.timestamp())
        yield from self.here()
        for leg in legs.values():
            yield from of_window(leg.way.route, self._now)
        if legs and all(leg.blocked for leg in legs.values()):
            several = [each for leg in legs.values() for found in leg.stops.values() for each in found]
            yield from {each.text: each for each in several}.values()
        if ahead:
            more = "at least " if ahead >= MOST_AHEAD else ""
            text = f"Of its route {more}{counted(ahead, 'letter')} in the queue go first, at its rate."
            yield Obstacle(kind=Kind.BEHIND, text=text)

    def here(self) -> Iterator[Obstacle]:
        """What keeps this replica from sending anything, while it may have the letter."""
        replica, letter = self._replica, self._letter
        if letter.status is not Status.AWAITING and replica.in_flight.token(letter.id) is None:
            return
        journal, claims = replica.parts.journal.trouble, replica.dispatcher.condition.text
        if replica.state == "draining":
            yield Obstacle(kind=Kind.HERE, text="This replica stops, and begins to send nothing more.")
        if journal:
            text = f"This replica cannot write its journal, and sends nothing until it can: {journal}."
            yield Obstacle(kind=Kind.HERE, text=text)
        if claims:
            text = f"This replica gets no letters out of the queue: {claims}."
            yield Obstacle(kind=Kind.HERE, text=text)

    def addressee(self, recipient: Recipient, entry: Entry | None) -> AddresseeView:
        """One recipient: which relay is next, and what is about it alone; `entry` is what suppresses it."""
        address, due, now = recipient.address, self._found.due, self._now
        leg = self._leg(address)
        named = tuple(each.text for _, each in self._mail.senders)
        own: list[Obstacle] = [] if entry is None else [_suppressed(entry)]
        if due is not None and recipient.due > max(now.epoch, due.timestamp()):
            text = f"It is due at {time_of(recipient.due)}, later than others of its letter."
            own.append(Obstacle(kind=Kind.DUE, text=text, until=recipient.due))
            due = now_ms(recipient.due)
        going: list[str] = []
        for stop in leg.way.stops:
            relay = self._relays[stop.relay.name]
            senders = named or (relay.policy.reverse_path,)
            held = list(of_recipient(relay, address, _author(self._mail, relay), senders, now))
            own += held
            if not (held or leg.stops[relay.name]):
                going.append(relay.name)
        return AddresseeView.model_construct(
            address=address,
            route=leg.way.route.name,
            next_relays=[] if entry is not None else _next(leg.way, going),
            next_try=due,
            obstacles=_obstacles(own),
        )

    def _leg(self, address: str) -> _Leg:
        if len(self.legs) == 1:
            return next(iter(self.legs.values()))
        return self.legs[self._table.route_for(self._traits, address)]


def _mail(replica: Replica, letter: Letter) -> Mail:
    """What its further keys say; who has it next says what is wrong with them."""
    try:
        return replica.composer.mail(letter)
    except ValueError:
        return Mail()


def _open(letter: Letter) -> list[Recipient]:
    """Those who are not done with, each address once."""
    return list({each.address: each for each in letter.recipients if each.open}.values())


def _author(mail: Mail, relay: Relay) -> str:
    """The address that an order about a sender has: as `mailsender.sending.orders.sender_of`."""
    if mail.author is not None:
        return mail.author.address.text
    return mail.reverse_path or relay.policy.reverse_path


def _next(way: Way, going: Sequence[str]) -> list[str]:
    """Of relays that go the first, or all that share by weight; a fallback only where none of those goes."""
    first = [each.relay.name for each in way.stops if not each.fallback and each.relay.name in going]
    if any(each.weight for each in way.stops) and first:
        return first
    return [*first, *(each.relay.name for each in way.stops if each.fallback and each.relay.name in going)][
        :1
    ]


def _told(way: Way) -> str:
    """Its relays in a sentence."""
    if not any(each.weight for each in way.stops):
        return ", then ".join(each.relay.name for each in way.stops)
    return ", ".join(
        f"{each.relay.name} ({'else' if each.fallback else f'weight {each.weight}'})" for each in way.stops
    )


def _because(letter: Letter) -> str:
    """Why it waits for a time of its own, as the end of a sentence."""
    said = next((each.result for each in letter.recipients if each.open and each.result is not None), None)
    if said is None:
        return ": it is not to be sent before." if letter.handling.not_before else "."
    rule = f" (rule {said.rule})" if said.rule else ""
    return f", since it was put off{rule}: {words(said)}"


def _suppressed(entry: Entry) -> Obstacle:
    until = None if entry.until is None else entry.until.timestamp()
    for_stream = f" for the stream {entry.stream}" if entry.stream else ""
    ends = f", until {time_of(until)}" if until else ""
    reason = f" ({entry.reason})" if entry.reason else ""
    text = f"{entry.address} is on the suppression list{for_stream}, by {entry.source}{reason}{ends}."
    return Obstacle(kind=Kind.SUPPRESSED, text=text, until=until)


def _sentences(letter: Letter, whole: Sequence[Obstacle], people: Sequence[AddresseeView]) -> Iterator[str]:
    yield from (each.text for each in whole)
    # What stops one relay is no news where another one goes.
    own = [
        (each.address, one)
        for each in people
        for one in each.obstacles
        if not (one.relay and each.next_relays)
    ]
    yield from (f"To {address}: {one.text}" for address, one in own[:MOST_SAID])
    if not whole and not own and letter.status is Status.AWAITING:
        yield "Nothing stands in its way: it is sent at its turn, within seconds."


def _view(
    found: StoredLetter,
    says: Iterable[str],
    *,
    ahead: int | None = None,
    ways: Sequence[WayView] = (),
    obstacles: Sequence[Obstacle] = (),
    people: Sequence[AddresseeView] = (),
) -> ExplainedView:
    letter = found.letter
    return ExplainedView.model_construct(
        id=letter.id,
        status=letter.status.value,
        says=list(says),
        route=letter.route,
        due=found.due,
        ahead=ahead,
        ways=list(ways),
        obstacles=_obstacles(obstacles),
        recipients=list(people),
        recipients_left_out=max(0, len(letter.pending) - len(people)) if people else 0,
    )


def _way(leg: _Leg) -> WayView:
    stops = [
        StopView.model_construct(
            relay=each.relay.name,
            weight=each.weight or None,
            fallback=each.fallback,
            obstacles=_obstacles(leg.stops[each.relay.name]),
        )
        for each in leg.way.stops
    ]
    return WayView.model_construct(
        route=leg.way.route.name, why=leg.way.why, recipients=leg.recipients, relays=stops
    )


def _obstacles(found: Iterable[Obstacle]) -> list[ObstacleView]:
    return [
        ObstacleView.model_construct(
            kind=each.kind.value,
            text=each.text,
            until=None if each.until is None else now_ms(each.until),
            relay=each.relay or None,
            rule=each.rule or None,
            said=each.said or None,
        )
        for each in found
    ]
