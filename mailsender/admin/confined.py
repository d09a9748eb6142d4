"""Work on what strangers wrote, in a process of its own that can take only so much time and memory.

Libraries that read such things are written in C and Rust: they take as long as they take, hold Python's lock
meanwhile, and cannot be called off. A process can. It has nothing of the service: no connection, no secret in
its surroundings, no file. It is started when it is first needed, and kept for a while.

Where a system knows no such limits (Windows; macOS for memory), the time alone is bounded.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar

from mailsender.model.errors import Unavailable

if sys.platform != "win32":
    import resource

T = TypeVar("T")

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of the largest answer: a template with all its languages is stored in 12 MB."""

MAX_GROWTH: Final = 48 * 1024 * 1024
"""Bytes by which the process may have grown for the next work to be done in it, too."""

STARTING: Final = 30.0
"""Seconds in which it has to be there: it imports for half a second, and longer on a busy machine."""

NICENESS: Final = 10
"""Where there is one processor for both, the service comes first."""

# The same code as here, wherever it lies; no variable of the surroundings, and no folder that happens to be
# the current one, has a say in that (-I).
_BEGIN: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mailsender.admin.confined import serve
serve()
"""


class TooMuch(Exception):  # noqa: N818  an answer about what was given
    """The work took more than it may, and was ended; the text says of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the work may take: `cpu` in whole seconds, `seconds` of the clock, `memory` in bytes.

    `memory` is what comes on top of what the process has when it has begun, some 30 MB.
    """

    cpu: int = 4
    """Thirty times of what the largest template that somebody writes takes."""
    seconds: float = 10.0
    """Less than a request has."""
    memory: int = 160 * 1024 * 1024
    """With what the service has it stays below what the manifests allow a container."""
    idle: float = 300.0
    """Seconds after its last work until the process is ended."""


class Confined:
    """Runs functions in the other process, one at a time; `modules` are where they are.

    A function, its arguments and its result are pickled; a function is told by its name. What it raises is
    raised here.
    """

    def __init__(self, *modules: str, bounds: Bounds | None = None) -> None:
        self._modules = modules
        self._bounds = bounds or Bounds()
        self._turn = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._until: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What `work` returns. Who waits for it no longer ends it.

        Raises:
            TooMuch: it takes more than its bounds.
            Unavailable: the process cannot be started, or the service ends.
        """
        request = pickle.dumps((work, args))
        async with self._turn:
            child = await self._ready()
            try:
                answer = await self._asked(child, request, self._bounds.seconds)
            except TimeoutError:
                raise TooMuch(f"it takes more than {self._bounds.seconds:g} s") from None
            except _Ended as error:
                raise self._why(error.status) from None
            self._rests(stays=answer.stays)
        if answer.error is not None:
            try:
                raise answer.error
            finally:
                # Else the error holds this frame, which holds the error, and the request with both.
                del answer
        result: T = answer.result
        return result

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._closed = True
        self._end()
        if self._ends:
            await asyncio.wait(self._ends)

    async def _ready(self) -> subprocess.Popen[bytes]:
        """The process, which has begun."""
        if self._closed:
            raise Unavailable("the service ends")
        if self._until is not None:
            self._until.cancel()
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()  # else somebody killed it
        try:
            child = self._child = _started(self._bounds, self._modules)
            await self._asked(child, None, STARTING)
        except (OSError, _Ended) as error:  # a TimeoutError is an OSError
            why = error.strerror if isinstance(error, OSError) and error.strerror else "it does not begin"
            raise Unavailable(f"the process for such work cannot be started: {why}") from None
        return child

    async def _asked(self, child: subprocess.Popen[bytes], request: bytes | None, seconds: float) -> _Answer:
        done = False
        try:
            async with asyncio.timeout(seconds):
                answer = await asyncio.to_thread(_exchange, child, request)
            done = True
        finally:
            if not done:
                self._end()
        return answer

    def _why(self, status: int) -> Exception:
        if self._closed:
            return Unavailable("the service ends")
        if sys.platform != "win32" and status == -signal.SIGXCPU:
            return TooMuch(f"it takes more than {self._bounds.cpu} s of a processor's time")
        megabytes = self._bounds.memory // (1024 * 1024)
        return TooMuch(f"it takes more than {megabytes} MB of memory, or more than what reads it can bear")

    def _rests(self, *, stays: bool) -> None:
        if not stays or self._closed:
            self._end()
        else:
            self._until = asyncio.get_running_loop().call_later(self._bounds.idle, self._end)

    def _end(self) -> None:
        child, self._child = self._child, None
        if self._until is not None:
            self._until.cancel()
            self._until = None
        if child is not None:
            child.kill()
            end = asyncio.get_running_loop().create_task(asyncio.to_thread(_buried, child))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the work came to; `stays` says whether the process takes more."""

    result: Any = None
    error: Exception | None = None
    stays: bool = True


class _Ended(Exception):  # noqa: N818  a state of the process
    """The process ended before it answered."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


# --- on this side ----------------------------------------------------------------------------------


def _started(bounds: Bounds, modules: Sequence[str]) -> subprocess.Popen[bytes]:
    path = json.dumps([each or str(Path.cwd()) for each in sys.path])
    kept = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
    return subprocess.Popen(  # noqa: S603  our own program
        [sys.executable, "-I", "-c", _BEGIN, path, str(bounds.cpu), str(bounds.memory), *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a library that panics writes there what it read
        # One arena: each reserves 64 MB, which would count.
        env={name: os.environ[name] for name in kept if name in os.environ} | {"MALLOC_ARENA_MAX": "1"},
        start_new_session=True,  # what a terminal sends is for the service, which then ends it
    )


def _exchange(child: subprocess.Popen[bytes], request: bytes | None) -> _Answer:
    """The answer to a request; without one, the first sign of life."""
    assert child.stdin is not None  # noqa: S101  for the type checker: both are pipes
    assert child.stdout is not None  # noqa: S101
    try:
        if request is not None:
            _write(child.stdin, request)
        answer = _read(child.stdout, MAX_ANSWER)
    except (OSError, EOFError):
        child.kill()
        raise _Ended(child.wait()) from None
    found: _Answer = pickle.loads(answer)  # noqa: S301  our own code wrote it
    return found


def _buried(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    for each in (child.stdin, child.stdout):
        if each is not None:
            with suppress(OSError):  # there was something left to write
                each.close()


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(struct.pack(">Q", len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes], most: int | None = None) -> bytes:
    """What was written as one.

    Raises:
        EOFError: the other side is gone.
        TooMuch: it has more than `most` bytes.
    """
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack(">Q", head)
    if most is not None and size > most:
        raise TooMuch(f"it makes more than {most // (1024 * 1024)} MB")
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


# --- on the other side -------------------------------------------------------------------------------


def serve() -> None:
    """The other process: does what comes in at its input until that ends."""
    cpu, memory = map(int, sys.argv[2:4])
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes nowhere
    for module in sys.argv[4:]:
        import_module(module)
    _bound(memory)
    began = _largest()
    _write(sink, pickle.dumps(_Answer()))
    with suppress(EOFError):
        while True:
            _bound_time(cpu)
            _write(sink, _done(_read(source), began))


def _done(request: bytes, began: int) -> bytes:
    try:
        work, args = pickle.loads(request)  # noqa: S301  the service wrote it
        result, error = work(*args), None
    except MemoryError:
        _out()
    except Exception as raised:  # noqa: BLE001  it is raised on the other side
        result, error = None, raised.with_traceback(None)
    except BaseException:  # noqa: BLE001  a library's panic, after which nobody knows how it is
        _out()
    try:
        return pickle.dumps(_Answer(result, error, _largest() - began < MAX_GROWTH))
    except MemoryError:
        _out()
    except Exception:  # noqa: BLE001  whatever keeps it from being sent
        return pickle.dumps(_Answer(error=RuntimeError(f"{type(error or result).__name__} cannot be sent")))


def _out() -> NoReturn:
    os._exit(1)


if sys.platform == "win32":

    def _bound(memory: int) -> None:
        """There are no such limits."""

    def _bound_time(cpu: int) -> None:
        """There are no such limits."""

    def _largest() -> int:
        return 0

else:

    def _bound(memory: int) -> None:
        """No more memory than that, no dump of it, and first to go where the machine has none left."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            os.nice(NICENESS)
        with suppress(OSError):  # Linux alone has them
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))

    def _bound_time(cpu: int) -> None:
        """No more than `cpu` seconds of a processor from now on: the system ends it, whoever waits."""
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = int(time.process_time()) + 1 + cpu
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))

    def _largest() -> int:
        """Bytes that the process had at most; 0 where that is not told.

        Not `ru_maxrss`, which begins with what the service has: it is kept over the start of a program.
        """
        with suppress(OSError, ValueError, IndexError):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
        return 0
