"""What `mailsender check` makes of servers that no test here can start: standalone, old, without rights."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from mailsender.check import kafka as probe_kafka
from mailsender.check import probe
from mailsender.check.findings import Finding, worst

HELLO = {"setName": "rs0", "hosts": ["a:1", "b:1", "c:1"]}


def members(*states: int, majority: int = 2) -> dict[str, Any]:
    return {"members": [{"state": state} for state in states], "writeMajorityCount": majority}


class FakeMongo:
    """Answers commands from a table; an exception in it is raised."""

    def __init__(self, **answers: Any) -> None:
        open_to_all = {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}}
        well = {"hello": HELLO, "buildInfo": {"version": "7.0.1"}, "connectionStatus": open_to_all}
        self._answers = {**well, **answers}
        self.closed = False

    @property
    def admin(self) -> FakeMongo:
        return self

    def __getitem__(self, _: str) -> FakeMongo:
        return self

    async def command(self, name: str, **_: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] | Exception = self._answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def find_one(self, *_: Any) -> None:
        if "find_one" in self._answers:
            raise self._answers["find_one"]

    def close(self) -> None:
        self.closed = True


async def found(monkeypatch: pytest.MonkeyPatch, fake: FakeMongo) -> list[Finding]:
    monkeypatch.setattr(probe, "connect", lambda *_, **__: fake)
    findings = await probe.probe_mongo("mongodb://x/", "mts", "letters", timeout=5)
    assert fake.closed
    return findings


@pytest.mark.asyncio
async def test_a_standalone_server_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await found(monkeypatch, FakeMongo(hello={"isWritablePrimary": True}))
    assert worst(findings) == "warning"
    assert "standalone" in findings[-1].text


@pytest.mark.asyncio
async def test_a_sharded_cluster_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await found(monkeypatch, FakeMongo(hello={"msg": "isdbgrid"}))
    assert [finding.level for finding in findings] == ["ok"]


@pytest.mark.asyncio
@pytest.mark.parametrize(("version", "level"), [("4.4.29", "error"), ("5.0.0", "ok"), ("10.0.0-rc1", "ok")])
async def test_a_version_that_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str, level: str) -> None:
    fake = FakeMongo(buildInfo={"version": version}, replSetGetStatus=members(1, 2, 2))
    assert worst(await found(monkeypatch, fake)) == level


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("states", "level"),
    [((1, 2, 2), "ok"), ((1, 2, 8), "warning"), ((1, 8, 8), "error"), ((1, 2, 7), "warning")],
)
async def test_members_that_are_down(
    monkeypatch: pytest.MonkeyPatch, states: tuple[int, ...], level: str
) -> None:
    assert worst(await found(monkeypatch, FakeMongo(replSetGetStatus=members(*states)))) == level


@pytest.mark.asyncio
async def test_a_user_who_may_not_ask_after_the_members_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OperationFailure("not authorized", 13, {"codeName": "Unauthorized"})
    assert worst(await found(monkeypatch, FakeMongo(replSetGetStatus=refusal))) == "ok"


@pytest.mark.asyncio
async def test_a_server_that_tells_nobody_the_rights_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OperationFailure("unrecognized field 'showPrivileges'", 40415, {"codeName": "Location40415"})
    fake = FakeMongo(connectionStatus=refusal, replSetGetStatus=members(1, 2, 2))
    assert worst(await found(monkeypatch, fake)) == "ok"


@pytest.mark.asyncio
async def test_a_server_that_tells_the_user_and_not_the_rights_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = {"authInfo": {"authenticatedUsers": [{"user": "robot", "db": "admin"}]}}
    fake = FakeMongo(connectionStatus=silent, replSetGetStatus=members(1, 2, 2))
    assert worst(await found(monkeypatch, fake)) == "ok"


@pytest.mark.asyncio
async def test_a_user_who_may_not_read_the_letters_is(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OperationFailure("not authorized", 13, {"codeName": "Unauthorized"})
    [finding] = await found(monkeypatch, FakeMongo(find_one=refusal))
    assert finding.level == "error"
    assert "rights" in finding.text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("off", "told"), [(0, ""), (31 * 86400, "s behind MongoDB's"), (-3600, "3600 s ahead of MongoDB's")]
)
async def test_a_clock_that_is_off_is_told(off: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = datetime.now(UTC) + timedelta(seconds=off)
    mongo = FakeMongo(hello={**HELLO, "localTime": theirs}, replSetGetStatus=members(1, 2, 2))
    monkeypatch.setattr(probe, "connect", lambda *_, **__: mongo)
    findings = await probe.probe_mongo("mongodb://x", "mts", "letters", timeout=1.0)
    warnings = [finding.text for finding in findings if finding.level == "warning"]
    assert [told in text for text in warnings] == ([True] if told else [])


# --- Kafka ---------------------------------------------------------------------------------------

WISH = probe_kafka.KafkaWish(letters="in", reports="out", dead_letters="dead", record_bytes=1000)


def test_it_says_where_it_may_not_look_at_a_topic() -> None:
    topic = {"partitions": [{"partition": 0, "leader": 1}]}
    seen = probe_kafka._judge_topic("in", topic, {"cleanup.policy": "delete"}, WISH)
    assert [each.level for each in seen] == ["ok"]
    unseen = probe_kafka._judge_topic("in", topic, {}, WISH)
    assert [each.level for each in unseen] == ["ok", "warning"]
    assert "DESCRIBE_CONFIGS" in unseen[1].text


@pytest.mark.parametrize(
    ("known", "level", "words"),
    [
        (None, "warning", "cannot be seen"),
        (False, "error", "the brokers make no topics by themselves"),
        (True, "warning", "the brokers do so at its first use"),
    ],
)
def test_of_a_topic_that_is_missing_it_says_what_it_knows(known: bool | None, level: str, words: str) -> None:
    found = probe_kafka._missing("in", made_when_used=known)
    assert (found.level, words in found.text) == (level, True)
