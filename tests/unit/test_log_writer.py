"""What becomes of log lines when nobody takes them: whoever logs is never held up."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from mailsender.observe import log_writer
from mailsender.observe.log_writer import MOST_BYTES, LogWriter

LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for each in ends:
        try:
            os.close(each)
        except OSError:
            continue


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, 65536)
    return data


def test_lines_go_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], lost=lambda _: None)
    for number in range(100):
        assert writer.write(f"line {number} ключ \ud800\n")
    assert writer.drain(10)
    expected = "".join(f"line {number} ключ \\ud800\n" for number in range(100)).encode()
    assert read(pipe[0], len(expected)) == expected


def test_nobody_is_held_up_by_a_pipe_that_nobody_reads(pipe: tuple[int, int]) -> None:
    lost: list[int] = []
    writer = LogWriter(pipe[1], lost=lost.append)
    count = 3 * MOST_BYTES // len(LINE)
    for _ in range(count):
        writer.write(LINE)  # it would block here
    assert not writer.drain(0.01)
    data = b""
    # Each line is read or told as lost, and nobody knows before how many were dropped.
    while len(data) < (count - sum(lost)) * len(LINE):
        if select.select([pipe[0]], [], [], 0.1)[0]:
            data += os.read(pipe[0], 65536)
    assert len(data) == (count - sum(lost)) * len(LINE)
    assert len(data) >= MOST_BYTES - len(LINE)
    assert sum(lost) > 0
    assert writer.drain(10)


def test_a_closed_pipe_ends_nothing(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "PAUSE", 0.01)
    writer = LogWriter(pipe[1], lost=lambda _: None)
    os.close(pipe[0])
    for _ in range(10):
        writer.write(LINE)
    assert not writer.drain(0.05)


def test_a_pipe_that_does_not_block_tears_no_line(pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETFL, fcntl.fcntl(pipe[1], fcntl.F_GETFL) | os.O_NONBLOCK)
    writer = LogWriter(pipe[1], lost=lambda _: None)
    large = "y" * 300_000 + "\n"  # more than a pipe holds
    writer.write(large)
    assert read(pipe[0], len(large)) == large.encode()
