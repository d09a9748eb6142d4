"""Words by which a relay means the account or itself, whatever its code says: data, and pure.

Hosting relays refuse an account that has sent too much, or that may not send at all, with a plain 550 at
RCPT: by its code nobody has such a mailbox. Only words that mean nothing else are here. Others that sound so
are a recipient's: a mailbox that is full, one that gets too much mail, a group that wants its senders known;
and what another host said, which a relay may repeat, is about the recipient that is there. See `RULES` of
`mailsender.sending.reply_rules` for what is done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

_ADDRESS: Final = re.compile(r"[^\s<>]+@[^\s<>]+")
"""Taken out before anything is looked for: an address may have any words in it."""

_OTHER_HOST: Final = (r"\bsaid:", r"\bresponse:", r"\(in reply to\b")

_MAILBOX: Final = (
    r"\brecipient(?:'s)? (?:has|rate)\b",
    r"\breceiv(?:e|ing)\b",
    r"\bmailbox (?:has|quota)\b",
    r"\bstorage\b",
    r"\b\d+ ?[kmg]i?b\b",
)

_PERIOD: Final = "(?:second|minute|hour|day|month)"
_LETTERS: Final = "(?:e-?mails|mails|messages)"
_A_LIMIT: Final = r"(?:limit|quota)\b"
_DENIED: Final = "(?:denied|disallowed|prohibited|forbidden)"
_STOPPED: Final = "(?:suspended|disabled|blocked)"
_NOT: Final = r"not (?:permitted|allowed|authori[sz]ed)"


@dataclass(frozen=True, slots=True)
class Words:
    """Regular expressions: a text has such words where one of `meant` is found in it, and none of `unless`.

    Both are looked for whatever the case. `such_as` are some of them, for people.
    """

    such_as: tuple[str, ...]
    meant: tuple[str, ...]
    unless: tuple[str, ...]
    _meant: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _unless: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make ready what is looked for."""
        for name, patterns in (("_meant", self.meant), ("_unless", self.unless)):
            object.__setattr__(self, name, re.compile("|".join(patterns), re.IGNORECASE))

    def fit(self, text: str) -> bool:
        """Whether a text, without its addresses, has them."""
        return self._meant.search(text) is not None and self._unless.search(text) is None

    @staticmethod
    def finds(text: str, pattern: str) -> bool:
        """Whether one of the expressions is found in a reply's text."""
        return re.search(pattern, _ADDRESS.sub(" ", text), re.IGNORECASE) is not None


WORDS: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "limit": Words(
            such_as=(
                "has exceeded the max emails per hour",
                "sending limit exceeded",
                "reached your daily email limit",
                "over your relay quota",
                "message count quota exceeded",
            ),
            meant=(
                rf"\b(?:send(?:ing)?|outgoing|outbound|submission|relay)\W(?:\w+\W){{0,3}}{_A_LIMIT}"
                r".{0,30}\b(?:exceed|reach)",
                rf"\b(?:exceed\w*|reached|over)\W(?:\w+\W){{0,4}}(?:send(?:ing)?|outgoing|outbound|relay)\W"
                rf"(?:\w+\W){{0,3}}{_A_LIMIT}",
                rf"\blimit\b.{{0,40}}\boutgoing {_LETTERS}.{{0,10}}\bexceed",
                rf"\bexceeded the max(?:imum)? (?:number of )?(?:{_LETTERS}|defers)\b",
                rf"\b(?:{_LETTERS}|recipients) per {_PERIOD} exceed",
                rf"\bonly \d+ (?:{_LETTERS}|recipients) per\b",
                rf"\b(?:hourly|daily)\W(?:\w+\W){{0,3}}{_A_LIMIT}.{{0,10}}\b(?:exceed|reach)",
                rf"\b(?:exceeded|reached)\W(?:\w+\W){{0,3}}(?:hourly|daily|hour|day)\W(?:\w+\W){{0,2}}{_A_LIMIT}",
                r"\bmessage count quota exceeded\b",
                r"\byou\b.{0,40}\bhave reached your message limit\b",
                r"\bunusual sending activity\b",
                r"\bSubmissionQuotaExceeded",
                r"\bpolicy rejection\W{1,3}quota exceeded\b",
                r"\bmaximum credits exceeded\b",
                rf"\blimit of \d+ (?:rcpts|recipients|{_LETTERS}) per\b.{{0,60}}\breached\b",
                r"\byou have exceeded your (?:out\w+|sending|message|mail) quota\b",
            ),
            unless=(*_MAILBOX, *_OTHER_HOST),
        ),
        "rate": Words(
            such_as=(
                "rate overlimit",
                "rate limit exceeded",
                "too many messages",
                "sending too many emails",
            ),
            meant=(
                r"(?<![\w./-])(?:\w+_)?rate[ -]?(?:over)?limit(?:ed)?\b(?![.@/-])",
                rf"\btoo many {_LETTERS}\b",
                r"\btoo much mail from\b",
                r"\b(?:sender|sending|submission|message|mail) rate\b.{0,30}\bexceed",
            ),
            unless=(
                r"\bon the server\b",
                r"\b(?:for|to) (?:this|the|that) (?:recipient|address|user|mailbox)\b",
                r"\b(?:session|connection)\b",
                r"\b(?:spf|dkim|dmarc|unauthenticated)\b",
                *_MAILBOX,
                *_OTHER_HOST,
            ),
        ),
        "relaying": Words(
            such_as=(
                "relaying denied",
                "relay access denied",
                "relay not permitted",
                "unable to relay",
                "not in my list of allowed rcpthosts",
            ),
            meant=(
                rf"\brelay(?:ing)?\W{{1,2}}(?:access )?(?:is )?{_DENIED}\b",
                rf"\brelay(?:ing)?\W{{1,2}}(?:access )?(?:is )?{_NOT}\b",
                rf"\brelay(?:ing)? (?:from|to|for|through) .{{1,60}}\b{_DENIED}\b",
                rf"\b(?:unable|{_NOT}) to relay\b",
                r"\bdo(?: not|n't) relay\b",
                r"\binvalid credentials for relay\b",
                r"\b(?:not|isn't) in my list of allowed rcpthosts\b",
            ),
            unless=_OTHER_HOST,
        ),
        "authentication": Words(
            such_as=(
                "authentication required",
                "must authenticate first",
                "client was not authenticated",
            ),
            meant=(
                r"\bauth(?:entication)? (?:is )?required\b",
                r"\bmust (?:first )?(?:authenticate|be authenticated|log ?in)\b",
                r"\bturn on smtp auth",
                r"\b(?:not|without) (?:logged in|authenticated|authentication)\b",
                r"\brequires (?:smtp )?authentication\b",
            ),
            unless=(
                r"\b(?:spf|dkim|dmarc)\b",
                r"\bresolver\.",
                r"\bauthenticated for\b",
                *_OTHER_HOST,
            ),
        ),
        "suspended": Words(
            such_as=(
                "outgoing mail from ann has been suspended",
                "sending for this account is disabled",
            ),
            meant=(
                rf"\boutgoing (?:e-?mail|mail|messages)\b.{{0,80}}\b{_STOPPED}\b",
                rf"\bsending (?:for|from) this (?:account|user) (?:is|has been) {_STOPPED}\b",
                r"\bsending paused for this account\b",
            ),
            unless=_OTHER_HOST,
        ),
        "sender": Words(
            such_as=("sender verify failed",),
            meant=(r"\bsender verif(?:y|ication)\b",),
            unless=_OTHER_HOST,
        ),
        "rights": Words(
            such_as=("is not authorized to perform",),
            meant=(r"\bnot authorized to perform\b",),
            unless=_OTHER_HOST,
        ),
    }
)
"""Kinds of words, by the names that `Rule.words` has."""


@lru_cache(maxsize=1024)  # a relay says the same few things thousands of times
def kinds_of(text: str) -> frozenset[str]:
    """Which of `WORDS` a reply's text has."""
    plain = _ADDRESS.sub(" ", text) if "@" in text else text
    return frozenset([name for name, words in WORDS.items() if words.fit(plain)])
