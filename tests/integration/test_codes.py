"""Confirmation codes on real parts: replicas over one MongoDB, and the page's commands as they stand."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from lab.parts import LoneMongod, MongoServer
from lab.world import KEY, World
from mailsender.codes.desk import CodeDesk, Guess, Made, Policy, TooOften, Wanted
from mailsender.codes.mongo import MongoCodeStore
from mailsender.codes.port import NewCode, Verdict
from mailsender.codes.seal import Seal
from mailsender.dev.catcher import Catcher
from mailsender.model.address import parse_address
from mailsender.model.errors import Forbidden
from mailsender.queue.mongo.client import Driver, connect, disconnect
from mailsender.settings.environment import Settings
from mailsender.web.code_models import CodeIn, CodeView, VerdictView
from tests.acceptance import conftest as acceptance

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "codes.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(curl .*?)```", PAGE, re.DOTALL)
ANSWERS = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
SECRET = "0123456789abcdef" * 4

world = acceptance.world

POLICY = Policy(length=6, life=600.0, tries=5, pause=60.0, window=3600.0, per_address=5, per_caller=2000)
WANTED = Wanted(
    address=parse_address("ann@example.org"),
    purpose="password",
    template="password",
    variables={},
    caller="me",
)


# --- replicas over one MongoDB -------------------------------------------------------------------


@dataclass
class Replicas:
    """Desks of several replicas over one database, by both drivers, and what they sent."""

    desks: list[CodeDesk]
    raw: Any
    sent: dict[str, str] = field(default_factory=dict)

    async def send(self, letter: Mapping[str, Any], really: bool) -> None:
        if really:
            self.sent[letter["ID"]] = letter["Variables"]["code"]

    async def check(self, number: int, made: Made, code: str, wanted: Wanted = WANTED) -> Verdict:
        guess = Guess(handle=made.handle, address=wanted.address, purpose=wanted.purpose, code=code)
        return await self.desks[number % len(self.desks)].check(guess)


@pytest_asyncio.fixture
async def replicas(mongod: MongoServer, database: str) -> AsyncIterator[Replicas]:
    drivers: list[Driver] = ["motor", "pymongo", "motor"]
    clients = [connect(mongod.uri, timeout=10.0, app_name="codes", driver=each) for each in drivers]
    made = Replicas([], clients[0].get_database(database).get_collection("letters.codes"))
    for client in clients:
        store = MongoCodeStore(client, database=database, collection="letters.codes")
        made.desks.append(
            CodeDesk(store, Seal(SECRET.encode()), POLICY, send=made.send, new_id=lambda: uuid4().hex[:24])
        )
    yield made
    for client in clients:
        await disconnect(client, 10.0)


@pytest.mark.asyncio
async def test_checks_at_once_on_all_replicas_find_it_right_once(replicas: Replicas) -> None:
    for _ in range(10):
        wanted = replace(WANTED, address=parse_address(f"{uuid4().hex}@b.example"))
        made = await replicas.desks[0].make(wanted)
        code = replicas.sent[made.letter]
        told = await asyncio.gather(*(replicas.check(number, made, code, wanted) for number in range(30)))
        assert Counter(told) == {Verdict.RIGHT: 1, Verdict.OVER: 29}


@pytest.mark.asyncio
async def test_brute_force_on_all_replicas_at_once_is_stopped(replicas: Replicas) -> None:
    made = await replicas.desks[0].make(WANTED)
    code = int(replicas.sent[made.letter])
    guesses = [f"{(code + 1 + number) % 10**6:06d}" for number in range(200)]
    told = await asyncio.gather(*(replicas.check(number, made, each) for number, each in enumerate(guesses)))
    assert Counter(told) == {Verdict.WRONG: POLICY.tries, Verdict.TOO_OFTEN: 200 - POLICY.tries}
    assert await replicas.check(0, made, f"{code:06d}") is Verdict.TOO_OFTEN


@pytest.mark.asyncio
async def test_any_number_of_clicks_on_all_replicas_makes_one_code(replicas: Replicas) -> None:
    """More of them than codes may be made."""
    keyed = replace(WANTED, key="session")
    made = await asyncio.gather(*(desk.make(keyed) for desk in replicas.desks * 2 * POLICY.per_address))
    assert len(set(made)) == len(replicas.sent) == 1
    assert await replicas.check(1, made[0], replicas.sent[made[0].letter]) is Verdict.RIGHT
    others = [replace(WANTED, key=f"session {number}") for number in range(POLICY.per_address)]
    found = await asyncio.gather(
        *(desk.make(each) for each in others for desk in replicas.desks), return_exceptions=True
    )
    assert len({each for each in found if isinstance(each, Made)}) == POLICY.per_address - 1, "counted as one"


@pytest.mark.asyncio
async def test_no_more_are_made_for_an_address_than_may_be_by_all_of_them(replicas: Replicas) -> None:
    found = await asyncio.gather(
        *(replicas.desks[number % 3].make(WANTED) for number in range(30)), return_exceptions=True
    )
    assert sum(isinstance(each, Made) for each in found) == POLICY.per_address
    assert {each.limit for each in found if isinstance(each, TooOften)} == {"address"}


@pytest.mark.asyncio
async def test_a_thousand_addresses_each_with_its_own(replicas: Replicas) -> None:
    wanted = [replace(WANTED, address=parse_address(f"a{number}@example.org")) for number in range(1000)]
    made = await asyncio.gather(
        *(replicas.desks[number % 3].make(each) for number, each in enumerate(wanted))
    )
    codes = [replicas.sent[each.letter] for each in made]
    told = await asyncio.gather(
        *(
            replicas.check(number + 1, one, code, each)
            for number, (one, code, each) in enumerate(zip(made, codes, wanted, strict=True))
        )
    )
    assert set(told) == {Verdict.RIGHT}
    kept = repr([each async for each in replicas.raw.find({})])
    assert "example.org" not in kept
    assert not any(one.handle in kept for one in made[:50])


@pytest.mark.asyncio
async def test_the_rights_that_the_page_names_are_enough_and_without_them_it_is_told(
    lone_mongod: LoneMongod,
) -> None:
    (sentence,) = re.findall(r"its user needs\s+(.*?) there", PAGE, re.DOTALL)
    rights = set(re.findall(r"`(\w+)`", sentence))
    for allowed in (rights, {"find"}):
        database = f"test_{uuid4().hex[:12]}"
        uri = lone_mongod.narrow_user(database, {"letters.codes": allowed})
        client = connect(uri, timeout=10.0, app_name="codes")
        store = MongoCodeStore(client, database=database, collection="letters.codes")
        new = NewCode(hash=b"h" * 32, letter="0" * 24, life=600.0)
        if allowed is rights:
            assert (await store.put(b"n" * 32, new, 60.0)).new
            assert await store.take(b"c" * 32, 1, 60.0) is None
            await store.give_back(b"c" * 32)
            assert await store.check(b"n" * 32, b"h" * 32, 5) is Verdict.RIGHT
            await store.withdraw(b"n" * 32, b"h" * 32)
        else:
            with pytest.raises(Forbidden, match="lacks rights"):
                await store.put(b"n" * 32, new, 60.0)
        await disconnect(client, 10.0)


# --- the page ------------------------------------------------------------------------------------


def test_the_page_has_the_keys_and_answers_that_there_are() -> None:
    rows = re.findall(r"^\| (`[A-Z]\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(CodeIn.model_fields)
    assert [set(each) for each in ANSWERS] == [set(CodeView.model_fields), set(VerdictView.model_fields)]
    results = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert results == [each.value for each in Verdict]
    for setting in re.findall(r"`(CODE_[A-Z_]+)`", PAGE):
        assert setting.lower() in Settings.model_fields


FILLED_IN = "templates_dir" in Settings.model_fields
"""Whether letters that name a template are filled in: until then none brings a code."""


@pytest.mark.skipif(not FILLED_IN, reason="letters that name a template are not filled in yet")
def test_the_commands_of_the_page_do_what_it_says(world: World, catcher: Catcher) -> None:
    replica = world.started(CODE_SECRET=SECRET, TEMPLATES_DIR=str(ROOT / "examples" / "templates"))

    def run(command: str) -> dict[str, Any]:
        variables = f"URL=http://127.0.0.1:{replica.port} KEY={KEY}\n"
        done = subprocess.run(
            ["bash", "-c", variables + command], capture_output=True, timeout=60, check=True, text=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    ask, check, ask_for_nobody = COMMANDS
    made = run(ask)
    assert set(made) == set(ANSWERS[0])
    assert run(ask) == made, "the same again"
    (message,) = catcher.wait_for(1)
    assert not re.search(r"\d", message["subject"])
    (code,) = re.findall(r"^\s+(\d{6})\s*$", catcher.message(message["id"])["text"], re.MULTILINE)

    def checked(given: str) -> str:
        return str(run(check.replace(ANSWERS[0]["id"], made["id"]).replace("482 913", given))["result"])

    assert checked(f"{(int(code) + 1) % 10**6:06d}") == "wrong"
    assert checked(f"{code[:3]} {code[3:]}") == "right"
    assert checked(code) == "over"

    unknown = run(ask_for_nobody)
    assert set(unknown) == set(made)
    (report,) = world.wait_reports(1)
    assert report["ID"] == made["letter"]
    assert code not in json.dumps(world.reports()), "nor does the report tell it"
    assert code not in replica.child.log.read_text(errors="replace")
    assert "ann@example.org" not in replica.child.log.read_text(errors="replace")
    assert replica.get(f"/letters/{unknown['letter']}").status == 404
    assert len(catcher.messages()) == 1
    assert world.records(world.topics.dead) == [], "an empty batch is one"
