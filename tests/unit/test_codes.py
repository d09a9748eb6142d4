"""How codes are made, sent and checked: over the store in memory, with a way to send that is played."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.codes.desk import CodeDesk, Guess, Made, Policy, TooOften, Wanted
from mailsender.codes.memory import MemoryCodeStore
from mailsender.codes.port import Verdict
from mailsender.codes.seal import Seal, exact, folded
from mailsender.intake.batch import read_letter
from mailsender.intake.schema import Limits
from mailsender.model.address import parse_address
from mailsender.model.letter import Origin, Status, now_ms
from mailsender.suppression.rules import SuppressionPolicy, ignores, stream_of
from tests.clocks import ManualClock

pytestmark = pytest.mark.asyncio

POLICY = Policy(length=6, life=600.0, tries=5, pause=60.0, window=3600.0, per_address=3, per_caller=4)
WANTED = Wanted(
    address=parse_address("ann@example.org"),
    purpose="password",
    template="password",
    variables={"company": "Example", "code": "from the caller"},
    caller="192.0.2.1",
    token={"user": 7},
)


@dataclass
class Played:
    """A desk over a clock that a test moves; what it sends is kept here."""

    policy: Policy = POLICY
    fault: Exception | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)
    pretended: int = 0

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryCodeStore(self.clock)
        numbers = count(1)
        self.desk = CodeDesk(
            self.store,
            Seal(b"secret" * 8),
            self.policy,
            send=self._send,
            new_id=lambda: f"{next(numbers):024x}",
        )

    async def _send(self, letter: Mapping[str, Any], really: bool) -> None:
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        if really:
            self.sent.append(dict(letter))
        else:
            self.pretended += 1

    async def make(self, **changes: Any) -> Made:
        return await self.desk.make(replace(WANTED, **changes))

    async def check(self, made: Made, code: str, wanted: Wanted = WANTED) -> Verdict:
        guess = Guess(handle=made.handle, address=wanted.address, purpose=wanted.purpose, code=code)
        return await self.desk.check(guess)

    @property
    def code(self) -> str:
        """The code of the last letter."""
        return str(self.sent[-1]["Variables"]["code"])

    def wrong(self) -> str:
        """A code that is not the last one."""
        return f"{(int(self.code) + 1) % 10**6:06d}"


async def test_a_code_goes_by_its_letter_and_is_right_once() -> None:
    played = Played()
    made = await played.make()
    (letter,) = played.sent
    assert letter == {
        "ID": made.letter,
        "Addresses": ["ann@example.org"],
        "Personal": True,
        "AutoSubmitted": "auto-generated",
        "Stream": "transactional",
        "Suppression": "ignore",
        "Template": "password",
        "Variables": {
            "company": "Example",
            "code": played.code,
            "minutes": 10,
            "until": made.until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "Token": {"user": 7},
    }
    assert len(played.code) == 6
    assert played.code.isdigit()
    assert made.until == datetime.fromtimestamp(played.clock.epoch() + 600, UTC)
    assert await played.check(made, played.code) is Verdict.RIGHT
    assert await played.check(made, played.code) is Verdict.OVER


async def test_who_is_on_the_suppression_list_gets_a_code_unless_the_stream_may_not_pass_it_by() -> None:
    played = Played()
    await played.make()
    origin = Origin(topic="t", partition=0, offset=0, index=0, timestamp=-1)
    letter = read_letter(played.sent[0], origin, None, Limits(), now=now_ms(played.clock.epoch()))
    assert (letter.status, letter.reason, stream_of(letter)) == (Status.AWAITING, "", "transactional")
    assert ignores(letter, stream_of(letter), SuppressionPolicy())
    assert not ignores(letter, stream_of(letter), SuppressionPolicy(transactional=frozenset({"invoices"})))


async def test_digits_of_any_keyboard_count_and_what_stands_between_does_not() -> None:
    played = Played()
    made = await played.make()
    wide = "".join(chr(0xFF10 + int(digit)) for digit in played.code)
    arabic = "".join(chr(0x0660 + int(digit)) for digit in played.code)
    for wrong in (f"x{played.code}", wide.replace(wide[0], "Ⅷ"), f"{played.code}0"):
        assert await played.check(made, wrong) is Verdict.WRONG
    typed = f" \u200e{wide[:2]}\u2009\u2013{arabic[2:4]} - \u00a0{played.code[4:]}\r\n"
    assert await played.check(made, typed) is Verdict.RIGHT


async def test_a_letter_may_be_in_a_language() -> None:
    played = Played()
    await played.make(lang="ru")
    assert played.sent[0]["Lang"] == "ru"


async def test_codes_are_chance_and_keep_their_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played()
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda most: asked.append(most) or 7)
    made = await played.make()
    assert (asked, played.code) == ([10**6], "000007")
    assert await played.check(made, "7") is Verdict.WRONG
    assert await played.check(made, " 000\u00a0-007 ") is Verdict.RIGHT, "as people write them down"


async def test_a_code_is_right_for_its_id_address_and_purpose_only() -> None:
    played = Played()
    made = await played.make()
    for other in (
        replace(WANTED, address=parse_address("Ann@example.org")),
        replace(WANTED, address=parse_address("bob@example.org")),
        replace(WANTED, purpose="address"),
    ):
        assert await played.check(made, played.code, other) is Verdict.OVER
    assert await played.check(replace(made, handle="0" * 32), played.code) is Verdict.OVER
    spelled = replace(WANTED, address=parse_address("ann@EXAMPLE.org"))
    assert await played.check(made, played.code, spelled) is Verdict.RIGHT, "none of it was a try"


async def test_the_clock_at_the_end() -> None:
    played = Played()
    made = await played.make()
    played.clock.forward(599.999)
    assert await played.check(made, played.wrong()) is Verdict.WRONG
    played.clock.forward(0.001)
    assert await played.check(made, played.code) is Verdict.OVER


async def test_checks_at_once_find_it_right_once() -> None:
    played = Played()
    made = await played.make()
    told = await asyncio.gather(*(played.check(made, played.code) for _ in range(20)))
    assert Counter(told) == {Verdict.RIGHT: 1, Verdict.OVER: 19}


# --- asked again ---------------------------------------------------------------------------------


async def test_the_same_request_again_is_the_same_and_sends_nothing() -> None:
    played = Played()
    first = await played.make(key="session 1")
    for _ in range(10):
        assert await played.make(key="session 1") == first
    at_once = await asyncio.gather(*(played.make(key="session 2") for _ in range(2)))
    assert len(set(at_once)) == 1
    assert len(played.sent) == 2
    await played.make(key="session 3")
    with pytest.raises(TooOften, match="address"):
        await played.make(key="session 4")


async def test_asked_again_after_the_pause_it_is_sent_anew_under_the_same_id() -> None:
    played = Played()
    first = await played.make(key="session")
    old = played.code
    played.clock.forward(60)
    second = await played.make(key="session")
    assert second.handle == first.handle
    assert second.letter != first.letter
    assert second.until > first.until
    if old != played.code:
        assert await played.check(first, old) is Verdict.WRONG
    assert await played.check(first, played.code) is Verdict.RIGHT


async def test_ids_of_others_cannot_be_known() -> None:
    played = Played(policy=replace(POLICY, per_address=100, per_caller=100))
    made = [await played.make() for _ in range(10)]
    made += [await played.make(key=key) for key in ("a", "b")]
    made.append(await played.make(key="a", purpose="address"))
    made.append(await played.make(key="a", address=parse_address("ann@example.com")))
    assert len({each.handle for each in made}) == len(made)
    other = Played()
    other.desk = CodeDesk(
        other.store, Seal(b"another" * 8), POLICY, send=other._send, new_id=lambda: "0" * 24
    )
    assert (await other.make(key="a")).handle not in {each.handle for each in made}


# --- limits --------------------------------------------------------------------------------------


async def test_an_address_gets_as_many_as_it_may_in_whatever_spelling() -> None:
    played = Played()
    for number, text in enumerate(("ann@example.org", "ANN@Example.org", "ann+shop@example.org")):
        await played.make(address=parse_address(text), caller=f"caller {number}")
    with pytest.raises(TooOften) as caught:
        await played.make(address=parse_address("Ann+more@example.org"), caller="another")
    assert caught.value.limit == "address"
    assert 0 < caught.value.retry_after <= 3600
    await played.make(address=parse_address("bob@example.org"), caller="another")
    played.clock.forward(3600)
    await played.make()
    assert len(played.sent) == 5


async def test_a_caller_gets_as_many_as_it_may_and_takes_no_more_from_addresses() -> None:
    played = Played()
    for number in range(4):
        await played.make(address=parse_address(f"a{number}@example.org"))
    for _ in range(10):
        with pytest.raises(TooOften) as caught:
            await played.make(address=parse_address("victim@example.org"))
        assert caught.value.limit == "caller"
    for number in range(3):
        await played.make(address=parse_address("victim@example.org"), caller=f"caller {number}")


async def test_brute_force_is_stopped() -> None:
    """Whatever somebody does within a window, he has as many guesses as codes times tries."""
    played = Played(policy=replace(POLICY, per_caller=1000))
    guesses = 0
    for _ in range(60):
        try:
            made = await played.make(key="attacker")
        except TooOften:
            break
        for number in range(50):
            verdict = await played.check(made, f"{(int(played.code) + 1 + number) % 10**6:06d}")
            guesses += verdict is Verdict.WRONG
            assert verdict in {Verdict.WRONG, Verdict.TOO_OFTEN}
        played.clock.forward(60)
    assert guesses == POLICY.tries * POLICY.per_address
    assert len(played.sent) == POLICY.per_address


async def test_a_thousand_addresses() -> None:
    played = Played(policy=replace(POLICY, per_caller=1000))
    wanted = [replace(WANTED, address=parse_address(f"a{number}@example.org")) for number in range(1000)]
    made = await asyncio.gather(*(played.desk.make(each) for each in wanted))
    codes = {letter["ID"]: letter["Variables"]["code"] for letter in played.sent}
    assert len({each.handle for each in made}) == len(codes) == 1000
    told = await asyncio.gather(
        *(played.check(one, codes[one.letter], each) for one, each in zip(made, wanted, strict=True))
    )
    assert set(told) == {Verdict.RIGHT}
    with pytest.raises(TooOften):
        await played.make(address=parse_address("one.more@example.org"))


# --- when it cannot be sent ----------------------------------------------------------------------


async def test_a_code_that_was_not_sent_is_none_and_is_not_counted() -> None:
    played = Played()
    for _ in range(10):
        played.fault = RuntimeError("no broker")
        with pytest.raises(RuntimeError, match="no broker"):
            await played.make(key="session")
    played.fault = None
    made = await played.make(key="session")
    assert await played.check(made, played.code) is Verdict.RIGHT
    assert len(played.sent) == 1


# --- nobody can tell -----------------------------------------------------------------------------


async def _story(played: Played, known: bool) -> list[Any]:
    """All that can be seen of what is done with an address."""
    told: list[Any] = []
    made = await played.make(known=known, key="session")
    told += [len(made.handle), len(made.letter), made.until]
    told.append(await played.make(known=known, key="session") == made)
    told += [await played.check(made, "not a code") for _ in range(POLICY.tries + 1)]
    played.clock.forward(600)
    told.append(await played.check(made, "123456"))
    for _ in range(POLICY.per_address):
        try:
            await played.make(known=known)
        except TooOften as error:
            told.append((error.limit, error.retry_after))
    return told


async def test_an_address_that_is_not_known_looks_like_one_that_is() -> None:
    known, unknown = Played(), Played()
    assert await _story(known, True) == await _story(unknown, False)
    assert (unknown.sent, unknown.pretended) == ([], len(known.sent))
    assert len(known.sent) == POLICY.per_address


async def test_a_code_for_nobody_cannot_be_guessed_by_luck_alone() -> None:
    """It is made as any other is, so that nothing has to be decided when it is checked."""
    played = Played(policy=replace(POLICY, tries=1000))
    made = await played.make(known=False)
    assert await played.check(made, "") is Verdict.WRONG
    stored = played.store._codes[Seal(b"secret" * 8).name(made.handle, "password", WANTED.address)]
    assert len(stored.code.hash) == 32


# --- secrets -------------------------------------------------------------------------------------


async def test_the_store_holds_neither_codes_nor_addresses() -> None:
    played = Played()
    made = await played.make(key="session")
    kept = repr(played.store._codes) + repr(played.store._counts)
    digest = hashlib.sha256(played.code.encode())
    for secret in (
        played.code,
        "ann",
        "example.org",
        "192.0.2.1",
        "session",
        made.handle,
        digest.hexdigest(),
    ):
        assert secret not in kept
    assert digest.digest() not in {each.code.hash for each in played.store._codes.values()}


async def test_without_the_secret_the_hash_says_nothing() -> None:
    name = b"n" * 32
    codes = [f"{number:04d}" for number in range(10_000)]
    told = Seal(b"one" * 16).hash(name, "1234")
    assert told in {Seal(b"one" * 16).hash(name, code) for code in codes}, "with it, at once"
    assert told not in {Seal(b"two" * 16).hash(name, code) for code in codes}
    assert Seal(b"one" * 16).hash(b"o" * 32, "1234") != told, "no hash is of use under another name"


async def test_nothing_is_logged_or_shown() -> None:
    played = Played()
    with capture_logs() as logs:
        made = await played.make()
        await played.check(made, played.wrong())
        await played.check(made, played.code)
        played.fault = RuntimeError("no broker")
        with pytest.raises(RuntimeError) as caught:
            await played.make()
    assert logs == []
    assert "no broker" in repr(caught.value)
    guess = Guess(handle=made.handle, address=WANTED.address, purpose="password", code="123456")
    assert "123456" not in repr(guess)
    assert "secret" not in repr(Seal(b"secret"))
    assert played.code not in json.dumps([made.handle, made.letter, made.until.isoformat()])


async def test_how_addresses_count() -> None:
    address = parse_address("Ann.B+Shop@Bücher.example")
    assert exact(address) == "Ann.B+Shop@xn--bcher-kva.example"
    assert folded(address) == "ann.b@xn--bcher-kva.example"
