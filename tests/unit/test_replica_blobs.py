"""What a replica does with files that are put to it: it keeps them within their bounds, while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mailsender.admin.blobs import MEASURED
from mailsender.admin.operations import ReplicaOperations
from mailsender.blobs.receive import TooLong
from mailsender.model.blobs import ref_of
from mailsender.model.errors import Unavailable
from mailsender.queue.memory import MemoryQueue
from mailsender.service import Replica
from mailsender.web.operations import Refused
from tests.clocks import ManualClock
from tests.relays import FakeRelay
from tests.unit.test_replica import replica_over

pytestmark = pytest.mark.asyncio


def running(monkeypatch: pytest.MonkeyPatch, **settings: str) -> tuple[Replica, ManualClock]:
    clock = ManualClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, **settings)
    replica.state = "running"
    replica.opening.clear()
    return replica, clock


async def content(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def test_a_file_is_kept_found_and_pushed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    replica, _ = running(monkeypatch)
    blobs = ReplicaOperations(replica).blobs
    put = await blobs.put(content(b"file"))
    assert (put.ref, put.size) == (ref_of(b"file"), 4)
    found, kept = await blobs.find(put.ref), await blobs.keep(put.ref)
    assert found is not None
    assert kept is not None
    assert kept.kept_until >= found.kept_until
    assert await blobs.keep(ref_of(b"another")) is None
    assert await blobs.resumable(ref_of(b"another")) == 0


async def test_one_is_as_large_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    replica, _ = running(monkeypatch, BLOB_MAX_BYTES="1024")
    blobs = ReplicaOperations(replica).blobs
    await blobs.put(content(b"x" * 1024))
    with pytest.raises(TooLong):
        await blobs.put(content(b"x" * 1025))


async def test_all_together_take_what_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    replica, clock = running(monkeypatch, BLOB_STORE_MAX_BYTES="1000")
    blobs = ReplicaOperations(replica).blobs
    await blobs.put(content(b"x" * 1001))
    clock.forward(MEASURED)
    with pytest.raises(Refused) as told:
        await blobs.put(content(b"y"))
    assert told.value.reason == "store-full"
    assert await blobs.find(ref_of(b"x" * 1001)) is not None


async def test_a_replica_that_does_not_run_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    replica, _ = running(monkeypatch)
    blobs = ReplicaOperations(replica).blobs
    replica.drain("halt")
    with pytest.raises(Refused) as told:
        await blobs.put(content(b"x"))
    assert told.value.reason == "draining"
    replica.opening.text = "no primary"
    with pytest.raises(Unavailable, match="no primary"):
        await blobs.find(ref_of(b"x"))


@pytest.mark.parametrize(("setting", "kept"), [({}, None), ({"MONGODB_BODY_RETENTION": "1h"}, 3600.0)])
async def test_bodies_are_kept_as_long_as_letters_unless_it_is_set(
    setting: dict[str, str], kept: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, _ = running(monkeypatch, **setting)
    assert replica.settings.body_retention == kept
    assert set(replica.tidier.tidied) == {"bodies", "blobs", "expired", "unreported"}
