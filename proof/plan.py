"""What the relay does instead of behaving well: by script, or by chance from a seed. Plain data.

A plan is JSON, so that it can be handed to the relay's process:

    {"seed": 7,
     "script": [{"phase": "RCPT", "match": "nobody", "do": "reply", "text": "550 5.1.1 No such user"},
                {"phase": "DOT", "nth": 3, "do": "reset", "accept": true}],
     "chance": [{"phase": "DOT", "p": 0.01, "do": "reply", "text": "451 4.3.0 Later"}],
     "delay": {"DOT": 0.02},
     "offers": {"pipelining": true, "tls": "none", "auth": false}}

`nth` counts a phase's occurrences from 1 over all sessions; without it a rule always holds. `at` is the place
that it is for, where the relay has several (see `proof.smtp_server`). `seconds` is the
length of a stall. `accept` (DOT only) says whether responsibility is taken although no good reply is given.
`"old": true` among the offers ends TLS with version 1.1.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PHASES = ("GREETING", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "DOT")

DEEDS = ("reply", "stall", "drip", "reset", "close", "garbage", "long", "many", "half", "late")
"""reply: `text`. stall: nothing for `seconds`, then the good reply. drip: the good reply octet by octet over
`seconds`. reset, close: end the connection, rudely or not. garbage: octets that are no reply. long: a line
of 10,000 octets. many: a reply of 500 lines. half: close our end for writing, go on reading. late: the good
reply, then the connection is reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What to do at one moment."""

    do: str = "reply"
    text: str = ""
    seconds: float = 0.0
    accept: bool = False

    @property
    def accepts(self) -> bool:
        """Whether responsibility is taken, at the dot."""
        if self.do == "reply":
            return self.text.startswith("2") or self.accept
        return self.do in {"stall", "drip", "late", "many", "long"} or self.accept

    @property
    def tells(self) -> bool:
        """Whether the client can learn of an acceptance from what is said."""
        return self.do in {"stall", "drip", "late"} or (self.do == "reply" and self.text.startswith("2"))


@dataclass(slots=True)
class Plan:
    """A plan in use: it counts what has happened."""

    rules: Mapping[str, Any] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.rules.get("seed", 0))
        for rule in (*self.rules.get("script", ()), *self.rules.get("chance", ())):
            if rule["phase"] not in PHASES or rule["do"] not in DEEDS:
                raise ValueError(f"no such rule: {rule}")

    def at(self, phase: str, argument: str = "", place: str = "") -> Deed | None:
        """What to do now, at a place of the relay; None to behave well."""
        self._seen[phase] += 1
        for rule in self.rules.get("script", ()):
            fits = rule["phase"] == phase and rule.get("match", "") in argument
            if (
                fits
                and rule.get("at", place) == place
                and rule.get("nth", self._seen[phase]) == self._seen[phase]
            ):
                return _deed(rule)
        for rule in self.rules.get("chance", ()):
            if rule["phase"] == phase and self._chance.random() < rule["p"]:
                return _deed(rule)
        return None

    def delay(self, phase: str) -> float:
        """Seconds that a good reply takes."""
        return float(self.rules.get("delay", {}).get(phase, 0.0))

    def offer(self, name: str, default: Any) -> Any:
        """What the relay offers in EHLO."""
        return self.rules.get("offers", {}).get(name, default)


def _deed(rule: Mapping[str, Any]) -> Deed:
    return Deed(
        do=rule["do"],
        text=rule.get("text", ""),
        seconds=rule.get("seconds", 0.0),
        accept=rule.get("accept", False),
    )


def trouble(seed: int, p: float) -> dict[str, Any]:
    """A plan in which everything goes wrong now and then, each kind of it with probability `p` a phase."""
    replies = [("MAIL", "451 4.3.0 Later"), ("RCPT", "450 4.2.1 Busy"), ("DATA", "451 4.3.0 Later")]
    replies += [("DOT", "452 4.3.1 Full"), ("MAIL", "421 4.3.2 Going down"), ("DOT", "421 4.3.2 Going down")]
    replies += [("GREETING", "421 4.7.0 Too many"), ("EHLO", "421 4.3.2 Going down")]
    replies += [("STARTTLS", "454 4.7.0 Not now"), ("AUTH", "454 4.7.0 Not now")]
    chance = [{"phase": phase, "p": p, "do": "reply", "text": text} for phase, text in replies]
    for phase in PHASES:
        chance += [
            {"phase": phase, "p": p / 4, "do": deed, "seconds": 0.3}
            for deed in ("stall", "drip", "reset", "close", "garbage", "long", "many", "half", "late")
        ]
    chance += [{"phase": "DOT", "p": p / 2, "do": "reset", "accept": True}]
    return {"seed": seed, "chance": chance}
