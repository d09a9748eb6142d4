"""Where a letter goes on that a relay did not take: only with those whom it certainly did not take (P12).

It is not compiled: a letter on a route with one relay never comes here.
"""

from __future__ import annotations

from typing import Final

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route
from mailsender.sending.errand import Errand

LACKS: Final = frozenset({"5.3.4", "5.6.7", "5.7.30"})
"""Enhanced codes of what this service refuses for want of something that another relay may have: the relay's
SIZE is too small, or it lacks SMTPUTF8 or REQUIRETLS. Nothing was said to it then."""

UNSUITED = 10.0
"""Seconds after which a letter is looked at again whose relay does not go: as long as one is asked that is
away."""


UNTAKEN = 60.0
"""Seconds after which a letter is looked at again that no relay of its route takes mail from the service for:
somebody has to mend the file."""


def untaken(errand: Errand) -> tuple[str, ...]:
    """Those of a letter's recipients whom its relay certainly did not take, in order.

    Put off by a reply, whatever its stage, or lost before the dot: in both nothing was taken (RFC 5321
    §4.2.5, §4.5.3.2). Who is in doubt from this or an earlier attempt is none of them: what becomes of those
    says `SMTP_UNCERTAIN`. Nor is who was refused for good, whose refusal is being weighed, or who is to wait
    by a rule about the recipient or its destination that does not speak of another relay. Who waits for what
    this relay, or the sender over it, is to wait for is one of them; and so is who was not asked about, as
    the relay lacks what the letter needs.
    """
    out = {each.address for each in errand.letter.recipients if each.uncertain}
    out |= errand.staying
    later = [
        address
        for address, result in errand.results.items()
        if (result.verdict is Verdict.DEFERRED or _lacks(result)) and address not in out
    ]
    known = errand.results.keys() | errand.doubtful.keys()
    return (*later, *(each for each in errand.left if each not in known))


def _lacks(result: Result) -> bool:
    """Whether the relay was not asked, for it lacks what the letter needs."""
    return result.verdict is Verdict.REFUSED and result.code is None and result.enhanced in LACKS


def elsewhere(errand: Errand, route: Route) -> tuple[tuple[str, ...], Relay] | None:
    """Whom this relay did not take, and the route's next one for them; None where one is wanting."""
    if errand.doubtful:
        return None  # what the relay means by it is not known yet
    addresses = untaken(errand)
    if not addresses:
        return None
    resting = route.resting(_author_of(errand))
    relay = route.next((*errand.tried, errand.relay), errand.senders, resting)
    return None if relay is None else (addresses, relay)


def _author_of(errand: Errand) -> str:
    """From, else the reverse-path; empty where it is that of each relay."""
    mail = errand.mail
    if mail is None:
        return ""
    return mail.reverse_path if mail.author is None else mail.author.address.text


def ended(errand: Errand) -> tuple[str, ...]:
    """Those of a letter's recipients who are done with: what became of them has to be written down first.

    Of who is in doubt the journal tells a successor, which would count it twice. Who goes on to another relay
    is none of them.
    """
    final = (Verdict.ACCEPTED, Verdict.REFUSED)
    further = set(untaken(errand))
    return tuple(
        address
        for address, result in errand.results.items()
        if result.verdict in final and address not in further
    )


def suit(errand: Errand, route: Route) -> bool:
    """See that the relay takes mail from the letter's senders, or one does to which it can turn.

    Where none does the letter is put off. For a sender of its own that is by its schedule: most likely it is
    the letter's mistake. That of the service is not, so then no attempt counts.
    """
    if errand.relay.takes(errand.senders):
        return True
    if further := elsewhere(errand, route):
        errand.turn_to(*further)
        return True
    if any(relay.takes(errand.senders) for relay in route.relays):
        errand.idle.update(errand.left)  # that one does not go now
        errand.pause = UNSUITED
        text = "the relay that takes mail from this sender does not go now"
    elif errand.mail is not None and errand.mail.senders:
        text = "no relay of the route takes mail from this sender"
    else:
        errand.idle.update(errand.left)
        errand.pause = UNTAKEN
        text = route.takes_none_from(errand.senders[0], for_seconds=2 * UNTAKEN)
    errand.results = dict.fromkeys(errand.left, Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, text=text))
    return False
