"""Connections with a relay that limits them over all replicas: how many are this one's. Pure, given `now`."""

from __future__ import annotations

from collections.abc import Collection


def share_of(total: int, replica: str, living: Collection[str]) -> int:
    """How many of `total` connections `replica` may have: an even share, and one of the rest by its rank.

    Where there are fewer than replicas the surplus ones have none. A replica that is not among the `living`
    has none either: others may have taken what was its own.
    """
    if replica not in living:
        return 0
    even, rest = divmod(total, len(living))
    return even + (sorted(living).index(replica) < rest)


class ConnectionShare:
    """This replica's share of `total` connections as others come and go.

    All compute their shares from the living they see, and not at the same moment. So a share shrinks at once
    and grows only when it would have for `patience` seconds without a break: by then those whose share shrank
    have seen it and closed what they had, or were declared dead. Who has not seen the living for as long has
    none. Who is alone at the first look waits for nobody. The shares sum up to no more than `total` as long
    as everybody looks at least three times in that time, and not everything changes between two looks.
    """

    def __init__(self, total: int, *, patience: float) -> None:
        self.total = total
        self._patience = patience
        self._views: list[tuple[float, int]] = []  # since when the share would have been so much
        self._seen_at = float("-inf")

    def see(self, replica: str, living: Collection[str], now: float) -> None:
        """Take in who lives; `now` is monotonic, in seconds, from before they were asked for."""
        share = share_of(self.total, replica, living)
        if now - self._seen_at > self._patience:
            alone = set(living) == {replica}
            self._views = [(now - self._patience if alone else now, share)]
        elif self._views[-1][1] != share:
            self._views.append((now, share))
        while len(self._views) > 1 and self._views[1][0] <= now - self._patience:
            del self._views[0]
        self._seen_at = now

    def allowed(self, now: float) -> int:
        """How many connections there may be now."""
        if now - self._seen_at > self._patience or now - self._views[0][0] < self._patience:
            return 0
        return min([share for since, share in self._views])
