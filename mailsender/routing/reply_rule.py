"""What a rule about replies is made of: when it fits, what is done, whom it is about, for how long. Pure.

Rules that an operator or a preset wrote are `ReplyRule`s. They stand before the defaults of
`mailsender.sending.reply_rules`, and what fits becomes a `Decision`. They are fed by what a relay said and by
nothing else: where there was no reply none of them fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from mailsender.model.address import folded
from mailsender.model.letter import Phase, Result
from mailsender.model.text import MAX_TEXT
from mailsender.ratelimit import order
from mailsender.routing.bounded_pattern import compiled

MAX_NAME: Final = 64
"""Characters of a rule's name: it stands with each recipient that the rule decided about."""

MAX_RULE_TEXT: Final = 200
"""Characters of the text that a rule looks for: a reply's line that is quoted whole fits."""

MAX_RULES: Final = 100
"""Rules of one relay in the file: all of them are looked at for each reply that is not a yes."""

LONGEST: Final = 7 * 86400.0
"""Seconds that a rule may hold something: what is to rest for longer belongs out of the file."""


class Action(StrEnum):
    """What is to be done about a reply. The first seven are for rules, the others are the defaults' alone."""

    WAIT = "wait"  # nothing that the scope covers for a while
    SLOW = "slow"  # the same, shortly, and then less at a time for a while
    SWITCH = "switch"  # over another relay of the route; where there is none it is a wait
    SPLIT = "split"  # in a further transaction, at once
    STOP = "stop"  # for long, as a person has to act; whether one has a few letters tell then
    FAIL = "fail"  # never for this recipient
    RETRY = "retry"  # later, by the schedule of the route; with a time it is a wait
    ANSWER = "answer"  # what its first digit says: 4xx later, 5xx never
    DEFER = "defer"  # later, although its first digit says never; it holds up nobody else
    RENEW = "renew"  # over another session, at once
    HOLD = "hold"  # no letter until the relay takes one again; nothing is counted
    WEIGH = "weigh"  # what it means is told by what the relay says of others


class Scope(StrEnum):
    """Whom a reply is about. Rules have recipient, destination, sender and relay."""

    RECIPIENT = "recipient"
    DESTINATION = "destination"  # the recipient's domain
    MESSAGE = "message"
    TRANSACTION = "transaction"
    SESSION = "session"
    SENDER = "sender"  # our account, our address, our greeting: the same for all letters
    RELAY = "relay"


class Suppress(IntEnum):
    """After how many such refusals an address is not to be written to any more."""

    NEVER = 0
    AT_ONCE = 1
    SECOND = 2


ACTIONS: Final = (
    Action.WAIT,
    Action.SLOW,
    Action.SWITCH,
    Action.SPLIT,
    Action.STOP,
    Action.FAIL,
    Action.RETRY,
)
"""Those that a rule may have."""

SCOPES: Final = (Scope.RECIPIENT, Scope.DESTINATION, Scope.SENDER, Scope.RELAY)
"""Those that a rule may have."""

STAGES: Final = (
    Phase.CONNECT,
    Phase.GREETING,
    Phase.EHLO,
    Phase.AUTH,
    Phase.MAIL,
    Phase.RCPT,
    Phase.DATA,
    Phase.DOT,
)
"""Those at which a rule may look; one that names none looks at all."""

DEFAULT_SECONDS: Final = {Action.WAIT: 300.0, Action.SLOW: 60.0, Action.SWITCH: 600.0, Action.STOP: 3600.0}
"""What `for` is where a rule leaves it out. SES asks to wait for up to ten minutes, and Google's limits last
for hours; a stop is looked at each hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """The second step, after the first one's time: `rate` times the full rate, for so many seconds.

    What resumes at once after a wait is soon told to wait again.
    """

    rate: float
    seconds: float

    def __post_init__(self) -> None:
        """See `ReplyRule`."""
        if not 0 < self.rate <= 1:
            raise ValueError("then.rate: a part of the full rate is needed, more than 0 % and at most 100 %")
        if not 0 < self.seconds <= LONGEST:
            raise ValueError(f"then.for: more than 0 and at most {LONGEST:.0f} seconds are needed")


_ON_TRIAL: Final = Then(rate=0.02, seconds=60.0)
"""Nobody knows whether a quota is new again, or a person has acted: a few letters tell."""

DEFAULT_THEN: Final = {
    Action.SLOW: Then(rate=0.5, seconds=600.0),
    Action.SWITCH: _ON_TRIAL,
    Action.STOP: _ON_TRIAL,
}
"""What follows where a rule about more than a recipient leaves it out."""

_ORDERING: Final = {Action.WAIT, Action.SLOW, Action.SWITCH, Action.STOP, Action.RETRY}
_NAME: Final = re.compile(r"[\w./\[\]:-]+", re.ASCII)
_CODE: Final = re.compile(r"[45](?:\d\d?)?", re.ASCII)
_ENHANCED: Final = re.compile(r"[45x]\.(?:x|\d{1,3})\.(?:x|\d{1,3})", re.ASCII)
NONE: Final = "-"
"""Stands for no enhanced code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRule:
    """One rule: all that is said of `at`, `codes`, `enhanced`, `text` and `pattern` has to fit a reply.

    `at` are stages, `codes` are codes or first digits, `enhanced` are enhanced codes with `x` for any number,
    and `-` for none. `text` is a part of the reply's text, `pattern` a regular expression that is searched in
    it, both whatever their case.

    `seconds` is the time of the first step, `then` the second one. `suppress` is for a `fail`.
    `fewer_sessions`: the relay counts them, and has too many of ours. `source` says
    who says so, and `verified` whether that was read there: else it is what others report, or our guess.

    Raises:
        ValueError: the text begins with the key of the file that is wrong.
    """

    name: str
    at: tuple[Phase, ...] = ()
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    text: str = ""
    pattern: str = ""
    action: Action
    scope: Scope
    seconds: float = -1.0
    then: Then | None = None
    suppress: Suppress = Suppress.NEVER
    fewer_sessions: bool = False
    source: str = ""
    verified: bool = False
    _lower: str = field(init=False, repr=False, compare=False)
    _compiled: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check it, fill in what was left out, and make ready what is looked for."""
        self._check_reply()
        self._check_deed()
        if self.seconds < 0:
            object.__setattr__(self, "seconds", DEFAULT_SECONDS.get(self.action, 0.0))
        if not self.seconds <= LONGEST:
            raise ValueError(f"for: at most {LONGEST:.0f} seconds can be held")
        if self.then is None and self.scope is not Scope.RECIPIENT:
            object.__setattr__(self, "then", DEFAULT_THEN.get(self.action))
        object.__setattr__(self, "_lower", self.text.lower())
        try:
            found = compiled(self.pattern) if self.pattern else None
        except ValueError as error:
            raise ValueError(f"pattern: {error}") from None
        object.__setattr__(self, "_compiled", found)

    def _check_reply(self) -> None:
        if len(self.name) > MAX_NAME or not _NAME.fullmatch(self.name):
            raise ValueError(f"name: 1 to {MAX_NAME} letters, digits and . / : - _ [ ] are needed")
        if not all(each in STAGES for each in self.at):
            raise ValueError(f"stage: one of {', '.join(STAGES)} is needed")
        if not all(_CODE.fullmatch(each) for each in self.codes):
            raise ValueError("code: a reply code from 400 to 599, or its first digits, is needed")
        if not all(each == NONE or _ENHANCED.fullmatch(each) for each in self.enhanced):
            raise ValueError("enhanced: a code such as 4.7.28 is needed, x for any number, - for none")
        if len(self.text) > MAX_RULE_TEXT:
            raise ValueError(f"text: at most {MAX_RULE_TEXT} characters can be looked for")
        if not (self.codes or self.enhanced or self.text or self.pattern):
            raise ValueError("code: a rule needs a code, an enhanced code, a text or a pattern")

    def _check_deed(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action: one of {', '.join(ACTIONS)} is needed")
        if self.scope not in SCOPES:
            raise ValueError(f"scope: one of {', '.join(SCOPES)} is needed")
        own = self.scope is Scope.RECIPIENT
        if not own and self.action in {Action.FAIL, Action.SPLIT}:
            # What is the account's or the relay's fault fails nobody.
            raise ValueError(f"scope: {self.action} is about a recipient")
        if own and self.action in {Action.SLOW, Action.STOP}:
            raise ValueError(f"scope: {self.action} is about a destination, a sender or a relay")
        if self.suppress and self.action is not Action.FAIL:
            raise ValueError("suppress: only what fails can be suppressed")
        if self.fewer_sessions and self.scope is not Scope.RELAY:
            raise ValueError("fewer_sessions: they are the relay's, and the scope is another one")
        if self.then is not None and (own or self.action not in _ORDERING - {Action.RETRY}):
            raise ValueError("then: it follows what rests, which is a destination, a sender or a relay")

    def fits(self, stage: Phase, code: int, enhanced: str | None, text: str) -> bool:
        """Whether it is about such a reply."""
        return (
            (not self.at or stage in self.at)
            and (not self.codes or str(code).startswith(self.codes))
            and (not self.enhanced or any(fits_enhanced(enhanced, each) for each in self.enhanced))
            and (not self._lower or self._lower in text.lower())
            and (self._compiled is None or self._compiled.search(text) is not None)
        )


def fits_enhanced(enhanced: str | None, pattern: str) -> bool:
    """Whether an enhanced code is one of `pattern`, with `x` for any number and `-` for none."""
    if enhanced is None:
        return pattern == NONE
    numbers, wanted = enhanced.split("."), pattern.split(".")
    return len(numbers) == len(wanted) and all(w in {"x", n} for n, w in zip(numbers, wanted, strict=True))


ACCOUNT_REPLIES: Final = ("530", "534", "535", "538")
"""Codes that are about the login (RFC 4954 §6), whatever else is said."""

ACCOUNT_CODES: Final = (
    "x.4.5",  # Google: daily sending limit, relay limit
    "5.7.26",  # Google: no SPF and no DKIM of the sender's domain pass
    "5.7.27",  # Google: SPF
    "5.7.30",  # Google: DKIM
    "5.7.40",  # Google: no DMARC record
    "5.7.233",  # Microsoft: the tenant's limit of external recipients
    "5.2.251",  # Microsoft: 5.2.251 to .255 are repeated errors of the account
    "5.2.252",
    "5.2.253",
    "5.2.254",
    "5.2.255",
    "5.1.90",  # Microsoft: the account's recipients a day
    "5.7.501",  # Microsoft: 5.7.501 to .503: the account is banned for spam; .504 and .505 are a recipient's
    "5.7.502",
    "5.7.503",
    "5.7.705",  # Microsoft: the tenant has exceeded its threshold
    "5.7.708",  # Microsoft: nothing is taken from this address of the tenant
    "5.7.60",  # Microsoft: no permission to send as this sender
    "5.7.57",  # Microsoft: the client has not logged in
    "5.7.139",  # Microsoft: basic authentication is off
    "x.7.8",  # RFC 4954 §6: credentials invalid
    "x.7.9",  # RFC 4954 §6: the mechanism is too weak
    "5.7.14",  # Google: log in with a browser first
)
"""Enhanced codes by which a relay says that it is the account's or the sender's fault."""


def is_accounts_fault(code: int | None, enhanced: str | None) -> bool:
    """Whether a reply blames the account in words that mean nothing else."""
    return str(code) in ACCOUNT_REPLIES or any(fits_enhanced(enhanced, each) for each in ACCOUNT_CODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done about one reply, and which rule says so.

    `otherwise` is what it means once the relay took others after it had said so. `counts`: the reply tells
    something about the recipient, so that its attempt counts. `pauses`: the relay rests even where it turned
    out to mean `otherwise`. `seconds` and `then` are the two steps of what
    is ordered. `said` is the reply, for people.
    """

    rule: str
    action: Action
    otherwise: Action
    scope: Scope
    seconds: float = 0.0
    then: Then | None = None
    counts: bool = True
    pauses: bool = False
    suppress: Suppress = Suppress.NEVER
    fewer_sessions: bool = False
    said: str = ""
    source: str = ""
    verified: bool = True

    @property
    def doubted(self) -> bool:
        """Whether it is about something else once it is known that others are taken."""
        return self.otherwise is not self.action

    @property
    def orders(self) -> bool:
        """Whether something beyond the letter is to be obeyed for a while, on all replicas."""
        return self.action in _ORDERING and self.seconds > 0


RELAY_KEY: Final = "relay"
"""The scope key of a relay as a whole."""


def scope_key(scope: Scope, *, recipient: str = "", sender: str = "") -> str:
    """What an order is about: ``relay``, ``destination:gmail.com``, ``sender:a@b.c``, ``recipient:d@e.f``."""
    if scope is Scope.RELAY:
        return RELAY_KEY
    if scope is Scope.DESTINATION:
        return order.destination(recipient)
    if scope is Scope.SENDER:
        return order.sender(sender)
    return f"recipient:{folded(recipient)}"


def first_fit(
    rules: Sequence[ReplyRule], stage: Phase, code: int, enhanced: str | None, text: str
) -> ReplyRule | None:
    """The first rule that fits a reply, None where none does.

    A `fail` gives way to a later rule by which the same reply is about the sender or the relay: an account's
    fault never fails a recipient, whatever the file says before the preset.
    """
    text = text[:MAX_TEXT]
    found: ReplyRule | None = None
    for rule in rules:
        if found is not None and rule.scope not in _ACCOUNTS:
            continue
        if rule.fits(stage, code, enhanced, text):
            if rule.action is not Action.FAIL:
                return rule
            if is_accounts_fault(code, enhanced):
                continue
            found = found or rule
    return found


_ACCOUNTS: Final = {Scope.SENDER, Scope.RELAY}


BARS: Final = frozenset({Action.STOP, Action.SWITCH})
"""What nothing but a person, or a long time, ends."""


def decided(
    rule: ReplyRule,
    code: int,
    enhanced: str | None,
    text: str,
    *,
    blames_all: bool = False,
    doubted: bool = False,
) -> Decision:
    """What a rule that fits says about a reply.

    `blames_all`: without it the reply would be taken to be about everybody. Then no attempt of a recipient
    counts, whoever the rule is about: too many would fail it in the end. `doubted`: for all that is known the
    reply may be about one letter. Whether it is shows once the relay takes others: such a one is put off, and
    does not stop all others again and again.
    """
    one = doubted and rule.action in BARS and rule.scope in _ACCOUNTS
    counts = rule.scope not in _ACCOUNTS and not blames_all and not is_accounts_fault(code, enhanced)
    return Decision(
        rule=rule.name,
        action=rule.action,
        otherwise=Action.DEFER if one else rule.action,
        scope=rule.scope,
        seconds=rule.seconds,
        then=rule.then,
        counts=counts,
        suppress=rule.suppress,
        fewer_sessions=rule.fewer_sessions,
        said=" ".join(filter(None, (str(code), enhanced, text)))[:MAX_TEXT],
        source=rule.source,
        verified=rule.verified,
    )


def own_words(result: Result) -> str:
    """What of a result's text the relay said.

    Where a reply ended the session our own words stand before it, and a rule must not be fed by them.
    """
    before, mark, said = result.text.partition(f": {result.code} ")
    if not mark or not before.startswith("the relay "):
        return result.text
    return said.removeprefix(f"{result.enhanced} ")


def checked(rules: Iterable[ReplyRule]) -> tuple[ReplyRule, ...]:
    """Rules of one relay, in their order.

    Raises:
        ValueError: they are too many, or two have one name.
    """
    found = tuple(rules)
    if len(found) > MAX_RULES:
        raise ValueError(f"rules: at most {MAX_RULES} can be had, and here are {len(found)}")
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"rules: two have the name {name}")
    return found
