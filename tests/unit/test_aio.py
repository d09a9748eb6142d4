"""What has to be done whatever happens is done, and waited for."""

from __future__ import annotations

import asyncio
import gc

import pytest

from mailsender.aio import afterwards


class Work:
    """Keeps the order of what ran."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ran: list[str] = []
        self.begun = asyncio.Event()
        self.end = asyncio.Event()

    async def work(self) -> str:
        self.ran.append("work")
        self.begun.set()
        await self.end.wait()
        if self.error:
            raise self.error
        return "done"

    async def then(self) -> None:
        await asyncio.sleep(0)
        self.ran.append("then")


@pytest.mark.asyncio
async def test_it_follows_work_that_ends() -> None:
    work = Work()
    work.end.set()
    assert await afterwards(work.work, work.then) == "done"
    assert work.ran == ["work", "then"]


@pytest.mark.asyncio
async def test_it_follows_work_that_raises() -> None:
    work = Work(ValueError("no"))
    work.end.set()
    with pytest.raises(ValueError, match="no"):
        await afterwards(work.work, work.then)
    assert work.ran == ["work", "then"]


@pytest.mark.asyncio
async def test_it_follows_work_that_is_cancelled() -> None:
    work = Work()
    task = asyncio.create_task(afterwards(work.work, work.then))
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ran == ["work", "then"]


@pytest.mark.filterwarnings("error")
@pytest.mark.asyncio
async def test_cancelled_before_it_begins_it_leaves_nothing_behind() -> None:
    work = Work()
    task = asyncio.create_task(afterwards(work.work, work.then))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()  # a coroutine that was never awaited says so when it goes
    assert work.ran == []
