"""Whom an order covers beside all of a relay: a sender, destinations, recipients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailsender.message.mail import Mail
from mailsender.routing.orders import Resting
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import RELAY_KEY, Decision, Scope, scope_key

Ordered = frozenset[tuple[str, str]]
"""Scope keys, each with the rule by which something was ordered for it."""

NOTHING: Final[Ordered] = frozenset()


def author_of(mail: Mail | None, relay: Relay) -> str:
    """The address that a letter is from, as an order about a sender has it: From, else the reverse-path."""
    if mail is not None and mail.author is not None:
        return mail.author.address.text
    return (mail.reverse_path if mail is not None else "") or relay.policy.reverse_path


def sender_rests(relay: Relay, mail: Mail | None, now: float) -> Resting | None:
    """By what nothing of a letter's sender may begin over a relay now; `now` is monotonic."""
    return relay.resting(scope_key(Scope.SENDER, sender=author_of(mail, relay)), now)


def recipient_rests(relay: Relay, address: str, now: float) -> Resting | None:
    """By what nothing may begin to a recipient, or to its destination, over a relay now."""
    return relay.resting(scope_key(Scope.RECIPIENT, recipient=address), now) or relay.resting(
        scope_key(Scope.DESTINATION, recipient=address), now
    )


def somebody_rests(relay: Relay, mail: Mail | None, recipients: Iterable[str], now: float) -> bool:
    """Whether a transaction over a relay may not begin now, as somebody in it rests."""
    return sender_rests(relay, mail, now) is not None or any(
        recipient_rests(relay, each, now) is not None for each in recipients
    )


def order(
    relay: Relay, mail: Mail | None, address: str, decision: Decision, now: float, *, obeyed: Ordered
) -> Ordered:
    """Do what a decision about `address` orders beyond its letter, unless that is `obeyed`; all that is then.

    What a relay says of several recipients in one transaction it asks for once.
    """
    key = scope_key(decision.scope, recipient=address, sender=author_of(mail, relay))
    if (key, decision.rule) in obeyed:
        return obeyed
    if decision.fewer_sessions and not relay.held(RELAY_KEY, now):
        relay.pool.fewer()  # who was told while it rests already was on the way before
    if decision.orders:
        relay.obey(decision, key, now)
    return obeyed | {(key, decision.rule)}
