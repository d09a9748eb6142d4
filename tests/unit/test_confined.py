"""Work in a process of its own: what it returns and raises, and what happens where it takes too much."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mailsender.admin.confined import MAX_ANSWER, Bounds, Confined, TooMuch
from mailsender.model.errors import Unavailable
from mailsender.templates.template import TemplateError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all these limits")


@asynccontextmanager
async def confined(**bounds: float) -> AsyncIterator[Confined]:
    made = Confined(__name__, bounds=Bounds(**bounds))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def forever() -> None:
    while True:
        pass


def refuse(reason: str) -> None:
    raise TemplateError(reason, template="welcome", line=3)


def large(size: int) -> int:
    return len(b"x" * size)


def surroundings() -> dict[str, str]:
    return dict(os.environ)


@pytest.mark.asyncio
async def test_it_returns_and_raises_what_the_work_does_in_one_process() -> None:
    async with confined() as work:
        first = await work.run(os.getpid)
        assert first != os.getpid()
        with pytest.raises(TemplateError, match="template welcome, line 3: it is bad"):
            await work.run(refuse, "it is bad")
        assert await work.run(sorted, [3, 1]) == [1, 3]
        assert await work.run(os.getpid) == first


@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_an_error_and_no_more() -> None:
    async with confined() as work:
        with pytest.raises(RuntimeError, match="lock cannot be sent"):
            await work.run(__import__("_thread").allocate_lock)
        assert await work.run(len, "abc") == 3


@pytest.mark.asyncio
async def test_no_secret_of_the_service_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "secret")
    async with confined() as work:
        assert set(await work.run(surroundings)) <= {
            "LC_CTYPE",
            "LD_LIBRARY_PATH",
            "MALLOC_ARENA_MAX",
            "PATH",
        }


@pytest.mark.asyncio
async def test_what_takes_too_long_is_ended_by_the_clock() -> None:
    async with confined(seconds=0.2) as work:
        await work.run(len, "")
        with pytest.raises(TooMuch, match=r"more than 0\.2 s"):
            await work.run(forever)


@pytest.mark.asyncio
async def test_what_takes_too_much_of_a_processor_is_ended_by_the_system() -> None:
    async with confined(cpu=0, seconds=60.0) as work:
        with pytest.raises(TooMuch, match="more than 0 s of a processor's time"):
            await work.run(forever)
        assert await work.run(len, "abc") == 3


@pytest.mark.asyncio
async def test_what_takes_too_much_memory_is_ended() -> None:
    async with confined(memory=64 * 1024 * 1024) as work:
        assert await work.run(large, 8 * 1024 * 1024) == 8 * 1024 * 1024
        with pytest.raises(TooMuch, match="more than 64 MB of memory"):
            await work.run(large, 80 * 1024 * 1024)
        with pytest.raises(TooMuch, match="or more than what reads it can bear"):
            await work.run(os.abort)
        assert await work.run(len, "abc") == 3


@pytest.mark.asyncio
async def test_an_answer_that_is_too_large_is_not_read() -> None:
    async with confined() as work:
        with pytest.raises(TooMuch, match="makes more than 16 MB"):
            await work.run(bytes, MAX_ANSWER + 1)
        assert await work.run(len, "abc") == 3


@pytest.mark.asyncio
async def test_a_process_that_grew_is_not_kept() -> None:
    async with confined() as work:
        first = await work.run(os.getpid)
        await work.run(large, 60 * 1024 * 1024)
        assert await work.run(os.getpid) != first


@pytest.mark.asyncio
async def test_a_process_that_nobody_needs_is_ended() -> None:
    async with confined(idle=0.0) as work:
        first = await work.run(os.getpid)
        await asyncio.sleep(0)  # the timer's turn
        await asyncio.sleep(0)
        await asyncio.wait(work._ends)
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


@pytest.mark.asyncio
async def test_who_waits_no_longer_ends_the_work() -> None:
    async with confined(seconds=60.0) as work:
        first = await work.run(os.getpid)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await work.run(forever)
        assert await work.run(os.getpid) != first
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


@pytest.mark.asyncio
async def test_closing_ends_work_that_is_under_way_at_once() -> None:
    async with confined(seconds=60.0) as work:
        await work.run(len, "")
        began = time.monotonic()
        waiting = asyncio.ensure_future(work.run(forever))
        await asyncio.sleep(0)
        await work.close()
        with pytest.raises(Unavailable, match="the service ends"):
            await waiting
        with pytest.raises(Unavailable, match="the service ends"):
            await work.run(len, "")
        assert time.monotonic() - began < 5


@pytest.mark.asyncio
async def test_a_process_that_was_killed_is_started_again() -> None:
    async with confined() as work:
        first = await work.run(os.getpid)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  a moment
        assert await work.run(len, "abc") == 3


@pytest.mark.asyncio
async def test_a_process_that_cannot_begin_is_told() -> None:
    work = Confined("mailsender.no_such_module")
    with pytest.raises(Unavailable, match="cannot be started: it does not begin"):
        await work.run(len, "abc")
    await work.close()


@pytest.mark.asyncio
async def test_a_process_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    work = Confined()
    with pytest.raises(Unavailable, match="cannot be started: No such file or directory"):
        await work.run(len, "abc")
    await work.close()
