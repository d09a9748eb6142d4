"""Which route a letter takes, and until when: decided as it comes in, and stored with it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from mailsender.message.values import BadKey
from mailsender.model.handling import DENIED, EXPIRED
from mailsender.model.letter import DEFAULT_ROUTE, Letter, Status


def not_default(route: str) -> bool:
    """Whether a letter may not name a route, or none, where there is one alone."""
    return route not in {"", DEFAULT_ROUTE}


def default_route(letter: Letter) -> str:
    """The route of every letter where there is one alone.

    Raises:
        BadKey: the letter names another one.
    """
    if not_default(letter.handling.route):
        raise BadKey("Route", DENIED)
    return DEFAULT_ROUTE


class Placing:
    """Gives letters their routes by `route_of`, which raises BadKey for one that may not have what it asks.

    `expire` has routes and the seconds from a letter's acceptance after which it is no longer sent over them.
    `denies` says whether a letter may not name a route; of an empty name, which is none, it never is.
    `everybody`: there is something to decide of letters that ask for nothing, too.
    """

    def __init__(
        self,
        route_of: Callable[[Letter], str] = default_route,
        expire: Mapping[str, float] | None = None,
        denies: Callable[[str], bool] = not_default,
    ) -> None:
        self.denies = denies
        self._route_of = route_of
        self.expire(expire or {})

    def expire(self, expire: Mapping[str, float]) -> None:
        """From now on letters are sent over routes for other times."""
        self._expire = dict(expire)
        # Else one with the original's keys alone is as it is.
        self.everybody = self._route_of is not default_route or any(map(math.isfinite, self._expire.values()))

    def placed(self, letter: Letter, now: datetime) -> Letter:
        """The letter on its route, or an `error`: it may not take the one that it names, or is too late."""
        if letter.status.final:
            return letter
        try:
            route = self._route_of(letter)
        except BadKey as error:
            return _refused(letter, str(error), now)
        expires = letter.handling.expire_at
        kept = self._expire.get(route, math.inf)
        if math.isfinite(kept):
            end = now + timedelta(seconds=kept)
            expires = end if expires is None else min(expires, end)
        if expires is not None and expires <= now:
            return _refused(letter, f"{EXPIRED}: it came in after its time was over", now)
        later = letter.handling.not_before
        if expires is not None and later is not None and expires <= later:
            return _refused(letter, f"{EXPIRED}: its time is over before it may be sent (NotBefore)", now)
        return letter.evolve(route=route, expires=expires)


def _refused(letter: Letter, reason: str, now: datetime) -> Letter:
    """An `error` with the same content: a letter that is read again is known by that."""
    return letter.evolve(status=Status.ERROR, reason=reason, finished_at=now, digest=letter.content)
