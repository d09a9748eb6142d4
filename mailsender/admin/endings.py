"""Why a letter that is done with ended as it did, in sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, Verdict
from mailsender.model.text import counted
from mailsender.routing.obstacles import time_of
from mailsender.sending.attempt import NEVER_TRIED
from mailsender.suppression.port import Entry
from mailsender.suppression.rules import SUPPRESSED

MOST_SAID: Final = 10
"""Recipients about whom there is a sentence of their own."""


def suppressed(recipient: Recipient) -> bool:
    """Whether nothing was sent to a recipient because of the suppression list."""
    result = recipient.result
    return result is not None and result.phase is Phase.INTAKE and result.text.startswith(SUPPRESSED)


def ending(letter: Letter, entries: Mapping[str, Entry] | None) -> Iterator[str]:
    """What became of a letter, and why of those who did not get it, as far as a person reads it.

    `entries` are those that the suppression list has now for its suppressed recipients, by their addresses;
    None where it cannot be read.
    """
    yield _head(letter)
    without = [each for each in letter.recipients if not each.accepted and each.result is not None]
    for each in without[:MOST_SAID]:
        yield f"To {each.address}: {_why(each, entries)}"
    if (more := len(without) - MOST_SAID) > 0:
        yield f"{counted(more, 'more recipient')} did not get it: GET /letters/{letter.id} has all."


def _head(letter: Letter) -> str:
    accepted = sum(each.accepted for each in letter.recipients)
    at = f" at {time_of(letter.finished_at.timestamp())}" if letter.finished_at else ""
    if letter.status is Status.SENT:
        return f"It was sent{at}, to {accepted} of {counted(len(letter.recipients), 'recipient')}."
    doubt = any(each.uncertain for each in letter.recipients)
    why = "nobody knows whether a relay took it" if doubt else "no relay took it"
    return f"It ended as an error{at}: {letter.reason or why}."


def _why(recipient: Recipient, entries: Mapping[str, Entry] | None) -> str:
    result, relay = recipient.result, recipient.relay
    if result is None:
        return "nothing is known."
    if suppressed(recipient):
        return f"nothing was sent, {result.text}.{_now(recipient.address, entries)}"
    if recipient.uncertain:
        over = f" over {relay}" if relay else ""
        return f"nobody knows whether it got it{over}: {words(result)}"
    if result == NEVER_TRIED:
        return "its time was over before it was tried."
    where = f"at {result.phase}" + (f" (rule {result.rule})" if result.rule else "")
    if result.verdict is Verdict.REFUSED:
        return f"{relay or 'it was'} refused{' it' if relay else ''} {where}: {words(result)}"
    tries = counted(recipient.tries, "attempt")
    return f"given up after {tries}; {relay or 'a relay'} put it off last, {where}: {words(result)}"


def _now(address: str, entries: Mapping[str, Entry] | None) -> str:
    """What the list says of a suppressed address by now, which may be something else than before."""
    if entries is None:
        return ""
    entry = entries.get(address)
    return " Now no entry of the list holds for it." if entry is None else f" Now the list has {told(entry)}."


def told(entry: Entry) -> str:
    """An entry of the suppression list in words: for whom, by whom, why, until when."""
    for_stream = f" for the stream {entry.stream}" if entry.stream else ""
    ends = f", until {time_of(entry.until.timestamp())}" if entry.until else ""
    reason = f" ({entry.reason})" if entry.reason else ""
    return f"{entry.address}{for_stream}, by {entry.source}{reason}{ends}"


def words(result: Result) -> str:
    """A reply as the relay said it, or what is said in place of one."""
    return " ".join(str(each) for each in (result.code, result.enhanced, result.text) if each)
