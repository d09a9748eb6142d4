"""What a preset is: reply rules of a provider, and the limits that go with them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailsender.model.letter import Phase
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Suppress, Then

AUTH, ENVELOPE, MESSAGE = (Phase.AUTH,), (Phase.MAIL, Phase.RCPT), (Phase.DATA, Phase.DOT)

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86400.0

HALF_FOR_A_WHILE: Final = Then(rate=0.5, seconds=10 * MINUTE)
HALF_FOR_LONGER: Final = Then(rate=0.5, seconds=30 * MINUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a provider publishes as its limits, as a relay of the file would say it; empty: not known.

    `rates` and `quota` are in the file's notation. They hold where the file says nothing of the same key.
    `rate_of_recipients` and `quota_of_recipients` say what a rate and a quota count that do not say it
    themselves, those of the file, too. `exact`: not one more than the rate is taken, so no burst is allowed.
    """

    rates: tuple[str, ...] = ()
    quota: str = ""
    connections_total: int = 0
    max_recipients: int = 0
    letters_per_session: int = 0
    rate_of_recipients: bool = False
    quota_of_recipients: bool = False
    exact: bool = False
    source: str = ""
    verified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The rules of a provider, in their order, after those of the file.

    `open_questions` says what could not be verified, for people.
    """

    name: str
    title: str
    rules: tuple[ReplyRule, ...]
    limits: Limits = Limits()
    open_questions: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Makes the rules of one preset, whose name begins theirs."""

    preset: str

    def __call__(
        self,
        name: str,
        *codes: int | str,
        action: Action,
        scope: Scope,
        source: str,
        at: tuple[Phase, ...] = (),
        enhanced: tuple[str, ...] = (),
        text: str = "",
        pattern: str = "",
        seconds: float = -1.0,
        then: Then | None = None,
        suppress: Suppress = Suppress.NEVER,
        fewer_sessions: bool = False,
        verified: bool = True,
    ) -> ReplyRule:
        """See `ReplyRule`."""
        return ReplyRule(
            name=f"{self.preset}/{name}",
            at=at,
            codes=tuple(map(str, codes)),
            enhanced=enhanced,
            text=text,
            pattern=pattern,
            action=action,
            scope=scope,
            seconds=seconds,
            then=then,
            suppress=suppress,
            fewer_sessions=fewer_sessions,
            source=source,
            verified=verified,
        )
