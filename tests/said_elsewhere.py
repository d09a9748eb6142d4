"""Keys of a letter of which the published schema says less than the service asks."""

from __future__ import annotations

KEYS = frozenset(
    {
        *("From", "Sender", "ReplyTo", "ReversePath", "To", "Cc", "InReplyTo", "References", "Headers"),
        *("Calendar", "ListUnsubscribe", "DSN", "Lang", "Template", "Variables"),
        *("Route", "NotBefore", "ExpireAt"),
    }
)
"""Keys of which a schema says the kind of value only: which text is a mailbox, a header or a language is more
than a pattern of readable length can tell. The unit tests of letters have them."""

BESIDE_ADDRESSES = frozenset({"Variables", "ListUnsubscribe"})
"""The same of what stands beside an address."""
