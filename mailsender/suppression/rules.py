"""Who is suppressed, for how long, and what a refusal adds to the list. Pure.

An address counts without regard to case, its domain in A-labels. RFC 5321 §2.4 leaves the case of a local
part to its host; hardly any host makes two mailboxes of it, and a list that could be passed by with a capital
letter would be none. What stands behind a plus sign is a part of it: such addresses are given up one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final
from unicodedata import category

from mailsender.model.address import Address, BadAddress, parse_address
from mailsender.model.durations import seconds_of
from mailsender.model.handling import MAX_STREAM, NAME
from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, Verdict
from mailsender.suppression.port import Entry, Refusal, Source, key_of

LIFE: Final = 30 * 86400.0
"""Seconds that an entry holds where nothing else is said: mailboxes come back, and are given to others."""

REFUSALS: Final = 2
"""Letters that have to be refused in words that are not clear: one may have met a passing fault."""

MAX_REASON: Final = 200
"""Characters of a reason that are kept."""

_WILD: Final = re.compile(r"[*?%]+")
"""A local part that some would write for any. To a list of addresses it is a mailbox's name, and nobody's."""

NEVER: Final = "never"
"""Until when an entry holds that does not end by itself."""

_NO_END: Final = (
    "until: is no time such as 2026-12-31T23:59:59Z, no duration from now such as 60d, and not never"
)

IGNORE: Final = "ignore"
"""The value of a letter's `Suppression` by which it goes out all the same."""

SUPPRESSED: Final = "suppressed"
"""The first word of what is told of a recipient to whom nothing was sent."""

OWN_CODES: Final = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
"""Enhanced codes that are about the address alone (RFC 3463 §3.2, RFC 7505 §4.2: no such mailbox, no such
domain, no address, moved away, a domain that takes no mail)."""

_ABOUT_OTHERS: Final = frozenset({"5.1.7", "5.1.8", "5.1.90", "5.2.3", "5.4.5"})
"""Of the codes about addresses, mailboxes and ways those about the sender, the message, the account's limit
(RFC 3463 §3.2, §3.3; Microsoft, Google)."""

_ABOUT_RECIPIENTS: Final = ("5.1.", "5.2.", "5.4.")

_MICROSOFTS_ACCOUNT: Final = "5.2.25"
"""5.2.251 to 5.2.255 are repeated errors of the account."""

_ABOUT_ADDRESSES: Final = frozenset({550, 551, 553})
"""Codes with which they are."""

_ABOUT_MAILBOXES: Final = frozenset({550, 551, 552, 553})
"""Codes about a mailbox where there is no enhanced one (RFC 5321 §4.2.2)."""

_ANYTHING: Final = 554
"""A code that may be about anything; what stands beside it tells."""

BY_NO_RULE: Final[Mapping[str, int]] = MappingProxyType({})
"""No rule of a relay failed anybody: what the replies say decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionPolicy:
    """What an operator chose: whether refusals are learned from, and for how many seconds an entry holds.

    `transactional` are the streams whose letters may ignore the list.
    """

    learns: bool = False
    life: float = LIFE
    transactional: frozenset[str] = frozenset({"transactional"})


class BadEntry(ValueError):  # noqa: N818  reads better where it is caught
    """What is asked for can be no entry of the list."""


# --- names ---------------------------------------------------------------------------------------


def normal(text: str) -> str:
    """An address, or a domain as ``@example.com``, as the list has it.

    Raises:
        BadAddress: it is neither.
    """
    if text.startswith("@"):
        return f"@{parse_address(f'a{text}').domain}"
    return _folded(parse_address(text))


def _folded(address: Address) -> str:
    return f"{address.local.lower()}@{address.domain}"


def keys_of(address: str, stream: str = "") -> tuple[str, ...]:
    """The keys of all entries that an address may meet, its own before its domain's; none for no address."""
    try:
        own = normal(address)
    except BadAddress:
        return ()
    domain = own[own.rindex("@") :]
    if not stream:
        return own, domain
    return own, key_of(own, stream), domain, key_of(domain, stream)


def stream_of(letter: Letter) -> str:
    """The stream of a letter, empty where it has none."""
    return letter.handling.stream


def entry_of(
    address: str,
    *,
    stream: str = "",
    reason: str = "",
    source: Source,
    since: datetime,
    until: datetime | None = None,
    endless: bool = False,
    now: datetime,
    life: float,
) -> Entry:
    """The entry that somebody asks for; without `until` it holds for `life` seconds, unless it is `endless`.

    Raises:
        BadEntry: it can be none; the message says why, without the mailbox's name.
    """
    try:
        name = normal(address.strip())
    except BadAddress as error:
        raise BadEntry(f"address: {error}") from None
    local, _, domain = name.rpartition("@")
    if _WILD.fullmatch(local):
        raise BadEntry(f"address: {local} does not stand for others; @{domain} is all of the domain")
    stream = stream.strip()
    if stream and (len(stream) > MAX_STREAM or not NAME.fullmatch(stream)):
        raise BadEntry(
            "stream: no letter can have it; one has letters, digits, '.', '-' and '_' alone, of ASCII, up to"
            f" {MAX_STREAM}"
        )
    if until is not None and until <= now:
        raise BadEntry("until: lies in the past")
    try:
        until = None if until is None else until.astimezone(UTC)
    except OverflowError:
        raise BadEntry("until: lies too far away") from None
    ends = None if endless else until or now + timedelta(seconds=life)
    kept = _one_line(reason)[:MAX_REASON]
    since, ends = cut(since), None if ends is None else cut(ends)
    return Entry(address=name, stream=stream, source=source, reason=kept, since=since, until=ends)


def end_of(text: str, now: datetime) -> datetime | None:
    """When an entry ends that is to hold until `text`: a time, a duration from `now`, or never (None).

    Raises:
        BadEntry: it is none of them. A time without a zone is none: nobody knows whose it is.
    """
    text = text.strip()
    if text == NEVER:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = _later(text, now)
    if found.tzinfo is None:
        raise BadEntry(_NO_END)
    return found


def _later(text: str, now: datetime) -> datetime:
    try:
        return now + timedelta(seconds=seconds_of(text))
    except ValueError:
        raise BadEntry(_NO_END) from None
    except OverflowError:
        raise BadEntry("until: lies too far away") from None


def cut(when: datetime) -> datetime:
    """A time to the millisecond, as it is kept."""
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


def _one_line(text: str) -> str:
    """Without what is no character of a line, nor of a text at all."""
    return " ".join("".join(" " if category(each)[0] == "C" else each for each in text).split())


# --- what a letter loses -------------------------------------------------------------------------


def in_force(entry: Entry, now: datetime) -> bool:
    """Whether an entry holds now."""
    return entry.active and (entry.until is None or entry.until > now)


def ignores(letter: Letter, stream: str, policy: SuppressionPolicy) -> bool:
    """Whether a letter of a stream goes out whoever is on the list: it says so, and its stream may."""
    return stream in policy.transactional and wants_to_ignore(letter)


def wants_to_ignore(letter: Letter) -> bool:
    """Whether a letter asks to go out whoever is on the list, be it allowed to or not."""
    if '"Suppression"' not in letter.mail:
        return False
    try:
        return bool(json.loads(letter.mail).get("Suppression") == IGNORE)
    except (RecursionError, ValueError, AttributeError):
        return False  # no service wrote it; the sender says what is wrong with it


def without(letter: Letter, stream: str, found: Mapping[str, Entry], now: datetime) -> Letter | None:
    """A letter of a stream without those of its open recipients who are on the list; None where none is.

    It is final where nobody is left, `error` where nobody had got it before.
    """
    moved: list[Recipient] = []
    hit = False
    for each in letter.recipients:
        entry = met(each.address, stream, found, now) if each.open else None
        hit = hit or entry is not None
        moved.append(each if entry is None else _ended(each, entry))
    if not hit:
        return None
    status = letter.status
    if not any(each.open for each in moved):
        status = Status.SENT if any(each.accepted for each in moved) else Status.ERROR
    return letter.evolve(recipients=tuple(moved), status=status)


def met(address: str, stream: str, found: Mapping[str, Entry], now: datetime) -> Entry | None:
    """The entry by which a letter of a stream is not sent to an address, None where there is none."""
    entries = (found.get(key) for key in keys_of(address, stream))
    return next((each for each in entries if each is not None and in_force(each, now)), None)


def _ended(recipient: Recipient, entry: Entry) -> Recipient:
    text = f"{SUPPRESSED}: {entry.reason or entry.source.value}"
    return Recipient(
        address=recipient.address,
        result=Result(verdict=Verdict.REFUSED, phase=Phase.INTAKE, text=text),
        tries=recipient.tries,
        doubts=recipient.doubts,
    )


# --- what a refusal adds -------------------------------------------------------------------------


def refusals_needed(result: Result) -> int:
    """After how many such refusals an address is suppressed: 1, 2, or 0 for never.

    One is enough where a relay says at RCPT, of the address itself, that it will never take it; else what may
    be the recipient's at all takes two: said at RCPT, by a relay, and not about others. What a policy says
    (5.7) may be about our address or the sender's, what a system says (5.3) about itself, what is said after
    RCPT about the letter: none of it makes an address one that mail does not reach.
    """
    if result.verdict is not Verdict.REFUSED or result.phase is not Phase.RCPT or result.code is None:
        return 0
    code, enhanced = result.code, result.enhanced
    if enhanced is None:
        return REFUSALS if code in _ABOUT_MAILBOXES else 0
    if enhanced in OWN_CODES and code in _ABOUT_ADDRESSES:
        return 1
    about_others = enhanced in _ABOUT_OTHERS or enhanced.startswith(_MICROSOFTS_ACCOUNT)
    may_be = code in _ABOUT_MAILBOXES or code == _ANYTHING
    return REFUSALS if may_be and enhanced.startswith(_ABOUT_RECIPIENTS) and not about_others else 0


def refusals_of(
    letter: Letter,
    results: Mapping[str, Result],
    at: datetime,
    until: datetime,
    *,
    failed: Mapping[str, int] = BY_NO_RULE,
) -> Iterable[Refusal]:
    """What the results of an attempt tell of its recipients, for the list.

    `failed` has, of the addresses that a rule of their relay failed, after how many such refusals that rule
    has them suppressed: 1 or 2, and 0 for never.
    """
    for address, result in results.items():
        needed = refusals_needed(result)
        if result.verdict is Verdict.REFUSED:
            needed = failed.get(address, needed)
        if not needed:
            continue
        try:
            name = normal(address)
        except BadAddress:
            continue
        yield Refusal(
            address=name,
            reason=f"{result.code} {result.enhanced or ''}".rstrip(),
            letter=letter.id,
            own=needed == 1,
            at=at,
            until=until,
        )


def _longer(one: datetime | None, other: datetime) -> datetime | None:
    return None if one is None else max(one, other)


def refused(before: Entry | None, refusal: Refusal) -> Entry:
    """The entry of an address after one more refusal; `before` is what it had.

    What an operator decided stays as it is while it holds. The same letter counts once, however often it is
    told of. What holds for longer already, or without an end, does so still.
    """
    if before is not None and before.until is not None and before.until <= refusal.at:
        before = None
    if before is not None and (not before.source.learned or before.letter == refusal.letter):
        return before
    number = 1 if before is None else before.refusals + 1
    was_active = before is not None and before.active
    return Entry(
        address=refusal.address,
        source=Source.REFUSAL,
        reason=refusal.reason,
        active=refusal.own or was_active or number >= REFUSALS,
        since=before.since if before is not None and was_active else refusal.at,
        until=refusal.until if before is None else _longer(before.until, refusal.until),
        refusals=number,
        letter=refusal.letter,
    )
