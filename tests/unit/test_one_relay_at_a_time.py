"""P12: a recipient is never given to a second relay unless the first certainly did not take it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import pytest

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing import breaker, weighing
from mailsender.routing.retry import RetryPolicy
from tests.dispatching import letter
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay


def said(verdict: str, phase: str, code: int | None = None, enhanced: str | None = None) -> Result:
    return Result(verdict=Verdict(verdict), phase=Phase(phase), code=code, enhanced=enhanced)


REPLIES = {
    ACCEPTED: 60,
    said("deferred", "rcpt", 450, "4.2.0"): 10,
    said("deferred", "mail", 451, "4.3.0"): 4,
    said("deferred", "data"): 4,
    said("deferred", "dot", 452, "4.3.1"): 4,
    said("uncertain", "dot"): 6,
    said("refused", "rcpt", 550, "5.1.1"): 4,
    said("refused", "dot", 554): 4,
    said("refused", "dot", 550, "5.4.5"): 2,
    said("refused", "mail", 535, "5.7.8"): 2,
}
"""What relays say, and how often of a hundred times."""


@pytest.mark.asyncio
@pytest.mark.parametrize("resends", [0, 1])
@pytest.mark.parametrize("weights", [(), (2, 1, 1)], ids=["in order", "by weight"])
async def test_whatever_relays_say_nobody_is_given_to_a_second_one_who_may_have_been_taken(
    monkeypatch: pytest.MonkeyPatch, weights: tuple[int, ...], resends: int
) -> None:
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(breaker, "LAST_WAIT", 0.05)
    monkeypatch.setattr(weighing, "GRACE", 0.1)
    chance = random.Random(f"{weights} {resends}")
    heard: dict[str, list[tuple[str, Result]]] = defaultdict(list)

    def answering(name: str) -> Callable[[str], Result]:
        def answer(address: str) -> Result:
            (result,) = chance.choices(list(REPLIES), list(REPLIES.values()))
            heard[address].append((name, result))
            return result

        return answer

    fakes = {name: FakeRelay(name=f"{name}.example:25", answer=answering(name)) for name in "abc"}
    retry = RetryPolicy(max_attempts=5, delay=0.01, resends=resends)
    plan = route("default", "a", "b", "c", weights=weights, retry=retry)
    async with fleet(fakes, [plan], max_recipients=2) as stage:
        await stage.put(
            *[
                letter(n, *[f"r{n}.{each}@example.test" for each in range(chance.randint(1, 4))])
                for n in range(150)
            ]
        )
        done = await stage.settled(150)
    assert sum(len({name for name, _ in each}) > 1 for each in heard.values()) > 20, "some went on"
    ends = {each.address: each for found in done for each in found.recipients}
    assert set(ends) == set(heard)
    for address, answers in heard.items():
        doubts = 0
        for (_, result), after in zip(answers, [*answers[1:], None], strict=True):
            assert result.verdict is not Verdict.ACCEPTED or after is None, (address, answers)
            doubts += result.verdict is Verdict.UNCERTAIN
            if result.verdict is Verdict.UNCERTAIN and after is not None:
                assert doubts <= resends, (address, answers)
        relay, last = answers[-1]
        end = ends[address]
        assert end.result is not None
        assert (end.relay[0], end.result.phase, end.result.code) == (relay, last.phase, last.code)
        assert end.accepted is (last.verdict is Verdict.ACCEPTED)
