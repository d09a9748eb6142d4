"""How a code is made, sent and checked, over a store and a way to send letters."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from unicodedata import category, decimal

from mailsender.codes.port import CodeStore, NewCode, Once, Verdict
from mailsender.codes.seal import HANDLE_BYTES, Seal
from mailsender.model.address import Address

Send = Callable[[Mapping[str, Any], bool], Awaitable[None]]
"""Publishes a letter. Where the second argument is false all is done but that it takes as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What codes are like and how many there may be.

    `length` is in digits; `life`, `pause` and `window` in seconds. A code may be tried `tries` times. Another
    takes its place after a `pause` at the earliest. In a `window` no more than `per_address` are made for one
    address, and no more than `per_caller` for one caller.
    """

    length: int
    life: float
    tries: int
    pause: float
    window: float
    per_address: int
    per_caller: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A code that somebody asks for.

    It is for `purpose` alone, and sent to `address` by `template` with `variables`, in the language `lang`
    where that is given. `caller` is who asks, as far as limits go. `key` makes the same request again the
    same. Where `known` is false nothing is sent, and nobody can tell. `token` comes back in the letter's
    report.
    """

    address: Address
    purpose: str
    template: str
    variables: Mapping[str, Any]
    caller: str
    lang: str = ""
    key: str = ""
    known: bool = True
    token: Any = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A code that somebody gives, for the one that was made under `handle`."""

    handle: str
    address: Address
    purpose: str
    code: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What is told of a code: the handle to check it under, its end, the ID of its letter. Not the code."""

    handle: str
    until: datetime
    letter: str


class TooOften(Exception):  # noqa: N818  an answer to the caller
    """As many codes as are allowed were made for this address, or by this caller."""

    def __init__(self, limit: Literal["address", "caller"], retry_after: float) -> None:
        """Note which limit, and the seconds until its window is over."""
        super().__init__(limit)
        self.limit = limit
        self.retry_after = retry_after


class NoCodes(Exception):  # noqa: N818  an answer to the caller
    """The service makes no codes: it has no secret for them."""


_IGNORED: Final = frozenset({"Zs", "Pd", "Cf", "Cc"})
"""Kinds of characters that people, and what they copy from, put between digits: spaces, dashes, marks that
nobody sees."""


STREAM: Final = "transactional"
"""The stream of letters with codes: somebody waits for each, so they stand behind no newsletter, and may have
a route of their own."""


class CodeDesk:
    """Makes codes and checks them.

    Nothing here is logged, and no error says more of a code than that there is one.
    """

    def __init__(
        self, store: CodeStore, seal: Seal, policy: Policy, *, send: Send, new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._seal = seal
        self._policy = policy
        self._send = send
        self._new_id = new_id

    async def make(self, wanted: Wanted) -> Made:
        """Make a code and send it.

        Asked again under the same `key` within the pause it does nothing, and answers the same; after it, a
        new code takes the place of the one before.

        Raises:
            TooOften: too many were made.
            Exception: as `send` does, or the store; then there is no code.
        """
        policy, seal = self._policy, self._seal
        if wanted.key:
            handle = seal.handle(wanted.key, wanted.purpose, wanted.address)
        else:
            handle = secrets.token_hex(HANDLE_BYTES)
        name = seal.name(handle, wanted.purpose, wanted.address)
        if wanted.key and (kept := await self._store.resting(name, policy.pause)) is not None:
            return Made(handle=handle, until=kept.end, letter=kept.letter)
        # Counted once, however often it comes at once: else a double click would be one code too many.
        once = Once(name=name, pause=policy.pause) if wanted.key else None
        counted = await self._count(wanted, once)
        code = f"{secrets.randbelow(10**policy.length):0{policy.length}d}"
        new = NewCode(hash=seal.hash(name, code), letter=self._new_id(), life=policy.life)
        kept = await self._store.put(name, new, policy.pause)
        if not kept.new:  # the same request came twice at once, and the other one sends it
            return Made(handle=handle, until=kept.end, letter=kept.letter)
        try:
            await self._send(letter_of(wanted, code, kept.letter, kept.end, policy.life), wanted.known)
        except Exception:  # a code that was not sent holds no more, and is not counted
            await self._store.withdraw(name, new.hash)
            for each in counted:
                await self._store.give_back(each, once)
            raise
        return Made(handle=handle, until=kept.end, letter=kept.letter)

    async def check(self, guess: Guess) -> Verdict:
        """What a code is, and use it up if it is right.

        Whatever comes out, the same is computed and one call of the store is made. What is compared there are
        HMACs: where two of them differ says nothing about the codes.
        """
        name = self._seal.name(guess.handle, guess.purpose, guess.address)
        given = self._seal.hash(name, _digits(guess.code))
        return await self._store.check(name, given, self._policy.tries)

    async def _count(self, wanted: Wanted, once: Once | None) -> tuple[bytes, ...]:
        """The names of the counts that this code is in.

        The caller's comes first: who is over it takes nothing of what is left for the address.
        """
        policy, store = self._policy, self._store
        caller, address = self._seal.caller(wanted.caller), self._seal.address(wanted.address)
        if (wait := await store.take(caller, policy.per_caller, policy.window, once)) is not None:
            raise TooOften("caller", wait)
        if (wait := await store.take(address, policy.per_address, policy.window, once)) is not None:
            raise TooOften("address", wait)
        return caller, address


def _digits(code: str) -> str:
    """What was typed without what does not count, digits as ASCII has them: keyboards have others."""
    counted = [char for char in code if category(char) not in _IGNORED]
    return "".join([char if (digit := decimal(char, None)) is None else str(digit) for char in counted])


def letter_of(wanted: Wanted, code: str, letter_id: str, end: datetime, life: float) -> dict[str, Any]:
    """The letter that brings a code, as on the in-topic; what it says of the code wins over the caller's.

    It goes to who is on the suppression list, too: a person has asked for it a moment ago, and nobody could
    tell her why nothing comes. Where it is taken, what refusals had put on the list ends.
    """
    told = {
        "code": code,
        "minutes": math.floor(life / 60),
        "until": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {
        **({"Lang": wanted.lang} if wanted.lang else {}),
        "ID": letter_id,
        "Addresses": [wanted.address.text],
        "Personal": True,
        "AutoSubmitted": "auto-generated",
        "Stream": STREAM,
        "Suppression": "ignore",
        "Template": wanted.template,
        "Variables": {**wanted.variables, **told},
        "Token": wanted.token,
    }
