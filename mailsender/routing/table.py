"""Which route a letter takes, and which of its recipients take another one. Pure.

The first route whose `match` fits, else `default`. A letter may name a route that is open. What a match says
of destinations is asked of each recipient: those of one letter may take several routes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailsender.model.letter import DEFAULT_ROUTE, Letter
from mailsender.routing.patterns import named_in
from mailsender.routing.plan import Match, Priority, RoutePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of a letter chooses its route. `senders` are the addresses that it is sent in the name of.

    `size` is in characters of its content, attachments left out. `wish` is the route that it names.
    """

    stream: str = ""
    senders: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    tags: tuple[str, ...] = ()
    size: int = 0
    wish: str = ""


TraitsOf = Callable[[Letter], Traits]


def traits_of(letter: Letter, service: str = "") -> Traits:
    """Those of a letter; `service` is the address from which it is sent where it names no other one."""
    handling = letter.handling
    named: list[str] = []
    if letter.mail:
        found = _keys_of(letter.mail)
        named = [_address_in(found.get(key)) for key in ("From", "Sender", "ReversePath")]
    return Traits(
        stream=handling.stream,
        senders=tuple(each for each in named if each) or ((service,) if service else ()),
        priority=handling.priority,
        tags=handling.tags,
        size=len(letter.subject) + len(letter.body) + len(letter.mail),
        wish=handling.route,
    )


def _keys_of(text: str) -> Mapping[str, Any]:
    """Another program may have written anything there: then it says nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _address_in(value: object) -> str:
    """The address of a mailbox as canonical letters hold it: ``"Name" <local@domain>``, or the address."""
    text = value if isinstance(value, str) else ""
    return text[text.rindex("<") + 1 : -1] if text.endswith(">") and "<" in text else text


class RouteTable:
    """The routes in their order, and what is asked to choose one of them.

    `plain`: all letters take the one route, so that nothing has to be looked at. `by_destination`: the
    recipients of a letter may take several.
    """

    def __init__(self, routes: Sequence[RoutePlan], traits: TraitsOf = traits_of) -> None:
        self._traits = traits
        self.names = frozenset(each.name for each in routes)
        self._open = frozenset(each.name for each in routes if each.open)
        self._matches = tuple((each.name, each.match) for each in routes if each.match is not None)
        self._else = DEFAULT_ROUTE if DEFAULT_ROUTE in self.names or not routes else routes[0].name
        self.plain = not self._matches and not self._open
        self.by_destination = any(match.destinations for _, match in self._matches)

    def of(self, letter: Letter) -> str:
        """The route that a letter takes first: that of the first recipient who is still to be reached."""
        if self.plain:
            return self._else
        traits = self._traits(letter)
        pending = (each.address for each in letter.recipients if each.open)
        first = next(pending, letter.addresses[0] if letter.addresses else "")
        return self.route_for(traits, first)

    def parts(self, letter: Letter, addresses: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Those of `addresses` that take a route, by its name, in their order."""
        addresses = tuple(addresses)
        if self.plain or not self.by_destination:
            return {self.of(letter): addresses}
        traits = self._traits(letter)
        found: dict[str, list[str]] = {}
        for each in addresses:
            found.setdefault(self.route_for(traits, each), []).append(each)
        return {name: tuple(several) for name, several in found.items()}

    def route_for(self, traits: Traits, address: str) -> str:
        """The route of one recipient of a letter."""
        if traits.wish in self._open:
            return traits.wish
        for name, match in self._matches:
            if fits(match, traits, address):
                return name
        return self._else

    def denial(self, wish: str) -> str:
        """Why a letter may not name this route; empty where it may."""
        if wish in self._open:
            return ""
        if wish in self.names:
            return f"the route {wish!r} is not open to letters that name it"
        return f"there is no route {wish!r}"


def fits(match: Match, traits: Traits, address: str) -> bool:
    """Whether all that a match says is so of a letter and one recipient; what is empty is not asked."""
    return (
        (not match.streams or traits.stream in match.streams)
        and (not match.priorities or traits.priority in match.priorities)
        and (not match.tags or not set(match.tags).isdisjoint(traits.tags))
        and (not match.larger or traits.size > match.larger)
        and (not match.smaller or traits.size < match.smaller)
        and (not match.senders or any(named_in(match.senders, each) for each in traits.senders))
        and (not match.destinations or named_in(match.destinations, address))
    )
