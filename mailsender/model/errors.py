"""The families into which adapters translate errors of their drivers, with the original as `__cause__`."""

from __future__ import annotations


class Unavailable(Exception):  # noqa: N818  a state of the world, not a mistake
    """A part of the outside world cannot do it now; the same call may succeed later."""


class Forbidden(Unavailable):
    """A part of the outside world does not let us: a login or a right is wanting.

    The same call succeeds once an operator has mended that, so it is waited for as for any `Unavailable`.
    """


class Rejected(Exception):  # noqa: N818  as above
    """A part of the outside world will never do it; repeating the call is of no use."""


class TooLarge(Rejected):
    """The broker or the client refuses the record for its size."""
