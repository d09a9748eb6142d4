"""MongoDB: the connection, its errors in our words, and an estimate of its clock.

The driver is chosen in `connect`. Everything that uses it keeps to the calls that Motor and PyMongo's own
`AsyncMongoClient` share.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WriteError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from mailsender.model.clock import Clock
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.model.letter import now_ms
from mailsender.queue.mongo import connection_string
from mailsender.queue.port import CLOCK_AGE

Client: TypeAlias = Any
"""Motor's client or PyMongo's `AsyncMongoClient`; they share no base class."""

Collection: TypeAlias = Any
"""A collection of such a client."""

Document: TypeAlias = dict[str, Any]

T = TypeVar("T")

DUPLICATE_KEY = 11000

GRACE = 2.0
"""Seconds after an operation's own deadline when we stop waiting for the driver to keep it."""

CLOCK_DRIFT = 0.001
"""How much faster than the server's our clock may run; far above what quartz does."""

MILLISECOND = 0.001
"""What a stored date may lack of the time that it was."""

# Given to every collection: a client's own options do not take this error handler.
CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    # The original wrote Kafka keys of any bytes as strings: they come back as surrogate escapes (PEP 383).
    unicode_decode_error_handler="surrogateescape",
    # A date that Python cannot hold, in a document of another program, must not fail a whole claim.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
"""For documents that go back as they came: an `_id` that no client can name is a filter all the same."""

# States of a server or a cluster that pass, from mongo/base/error_codes.yml.
_PASSING = frozenset(
    {
        *(6, 7, 89, 202, 384, 9001),  # the network between the members
        *(91, 189, 10107, 10058, 11600, 11602, 13435, 13436),  # no primary, or it is going down
        *(24, 46, 50, 112, 175, 262, 290, 11601),  # interrupted, out of time, in conflict
        *(64, 79, 100, 133, 134),  # not enough members
        *(63, 70, 150, 13388),  # a sharded cluster that is moving data
        *(43, 146, 462, 14031),  # cursor lost, out of memory, too many requests, disk full
        # The storage engine's cache is full of what others write: one document of 16 MB always fits.
        *(365, 388),
        *(12501, 16500),  # words of services: the quota is used up; too many requests (Cosmos DB)
    }
)

_STATES = _PASSING | {11, 13, 18, 31, 334, 391, 8000}

# What a single document or value is refused for, from the same file. Repeating it is of no use.
_DATA = frozenset(
    {
        *(2, 9, 14, 15, 16, 22, 28, 34, 40, 41, 42),  # no such value, type, path, operator or BSON
        *(52, 53, 54, 55, 56, 57, 66, 121),  # names of fields, an immutable one, the collection's own rules
    }
)

FIRST_LOCATION = 10_000
"""Codes from here on name a place in MongoDB's source: what a command was given made no sense there."""

_LOGIN = frozenset({11, 18, 334, 391})
"""UserNotFound, AuthenticationFailed, MechanismUnavailable, ReauthenticationRequired."""

_RIGHTS = frozenset({13, 31})
"""Unauthorized, RoleNotFound."""

_ATLAS = 8000
"""AtlasError: the service before MongoDB refuses, for a quota, for a right, or for a login."""

BAD_LOGIN = (
    "MongoDB does not let us in: the user or the password is wrong, or the user was made in another database;"
    " see MONGODB_USERNAME (a user of the database admin) and MONGODB_PASSWORD, or MONGODB_URI, where"
    " authSource names the user's database"
)
NO_RIGHTS = (
    "MongoDB does not allow it: the user, if there is one, lacks rights; see MONGODB_USERNAME, or the user in"
    " MONGODB_URI, and grant what `mailsender check` says"
)
ATLAS = (
    "the service that runs MongoDB refuses (8000): its quota of space or load is used up, the user lacks a"
    " right, or the password is wrong; see its console, MONGODB_USERNAME and MONGODB_PASSWORD, or MONGODB_URI"
)

_OF_THE_DRIVER = (
    ("_OperationCancelled", "a server does not answer any more, and its connections were given up"),
    ("NetworkTimeout", "a server does not answer"),
    ("ServerSelectionTimeoutError", "no server can be reached that will do"),
    ("NotPrimaryError", "the primary is none any more"),
    ("WaitQueueTimeoutError", "all connections are in use"),
    ("CursorNotFound", "the cursor is lost"),
    ("AutoReconnect", "a connection was lost"),
    ("ConnectionFailure", "a server cannot be reached"),
    ("ConfigurationError", "the servers do not suit"),
)
"""The driver's errors by class, the narrow ones first, as one of them is private."""

_SAYS_NOTHING = frozenset({"_OperationCancelled", "CursorNotFound"})

_OF_PYTHON = {
    "OverflowError": "a number is too large for BSON",
    "RecursionError": "a value is nested too deeply for BSON",
}

POOL = 32
"""Connections at most: far more than we use at once, so that nothing waits for one, whatever the URI says."""

_CODE = re.compile(r"'code': ([0-9]{1,9})")
_BRIEF = re.compile(r" \(configured timeouts|, Timeout: |, full error: ")


Driver: TypeAlias = Literal["motor", "pymongo"]


def _driver(name: Driver) -> Callable[..., Client]:
    """The class of its clients. The other driver is not even loaded."""
    if name == "pymongo":
        from pymongo import AsyncMongoClient  # noqa: PLC0415  as said

        return AsyncMongoClient
    from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415  as said

    return AsyncIOMotorClient


def connect(uri: str, *, timeout: float, app_name: str, driver: Driver = "motor") -> Client:
    """A client of `driver` for `uri` whose operations end within `timeout` seconds; nothing is sent yet.

    Writes are acknowledged by a majority and journaled, whatever `uri` says; `durable` pins the reads.

    Raises:
        Rejected: `uri` cannot be read. The text does not repeat it, for it may hold a password.
    """
    milliseconds = int(timeout * 1000)
    try:
        return _driver(driver)(
            uri,
            appname=app_name,
            timeoutMS=milliseconds,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            w="majority",
            journal=True,
            wTimeoutMS=milliseconds,
            maxPoolSize=POOL,
            waitQueueTimeoutMS=milliseconds,
            tz_aware=True,
        )
    except OSError as error:
        raise Rejected(_unusable(error.strerror or type(error).__name__, uri)) from None
    except (ConfigurationError, ValueError, TypeError, LookupError) as error:
        shape = "it should read mongodb://user:password@host:port/?options, user and password percent-encoded"
        raise Rejected(_unusable(f"{type(error).__name__}; {shape}", uri)) from None


def _unusable(why: str, uri: str) -> str:
    named = connection_string.files(uri)
    beside = f"; see {' and '.join(named)}" if named else ""
    return f"MongoDB's connection string (MONGODB_URI) cannot be used: {why}{beside}"


async def disconnect(client: Client, timeout: float) -> None:
    """Close `client`, waiting at most `timeout` seconds for servers that do not answer.

    Raises:
        Unavailable: it took longer; what is left ends with the process.
    """
    # Motor's close blocks while it says good-bye, PyMongo's is a coroutine: both may meet a frozen server.
    async with calling(timeout):
        closing = await asyncio.to_thread(client.close)
        if inspect.isawaitable(closing):
            await closing


def durable(client: Client, database: str, collection: str, timeout: float) -> Collection:
    """The collection with our codec, and with writes that survive the loss of any minority of members.

    Reads decide what is written next, so they go to the primary and see its newest state: a member that lags
    would name letters that were claimed long ago, and hide those that were.
    """
    return client.get_database(database).get_collection(
        collection,
        codec_options=CODEC,
        write_concern=WriteConcern(w="majority", j=True, wtimeout=int(timeout * 1000)),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("local"),
    )


def committed(collection: Collection) -> Collection:
    """The same collection read as a majority has it: what is seen cannot be rolled back."""
    return collection.with_options(read_concern=ReadConcern("majority"))


@asynccontextmanager
async def calling(timeout: float) -> AsyncIterator[None]:
    """Run driver calls within `timeout` seconds altogether, with their errors in our words.

    Raises:
        Unavailable: it may succeed later, or nobody knows whether it did; `Forbidden` where an operator has
            to mend something first.
        Rejected: it will never succeed.
    """
    try:
        with pymongo.timeout(timeout):
            async with asyncio.timeout(timeout + GRACE):
                yield
    except TimeoutError as error:
        raise Unavailable(f"MongoDB did not answer within {timeout:g} s") from error
    except (PyMongoError, BSONError, OverflowError, UnicodeError, RecursionError) as error:
        raise translated(error) from error


def translated(error: Exception) -> Unavailable | Rejected:
    """The driver's `error` in our words. Texts of the server may quote a document, so they are left out."""
    codes = _codes(error)
    if codes & _LOGIN:
        return Forbidden(BAD_LOGIN)
    if codes & _RIGHTS:
        return Forbidden(NO_RIGHTS)
    if _ATLAS in codes:
        return Forbidden(ATLAS)
    if passing(error):
        return Unavailable(f"MongoDB is not available: {_summary(error)}")
    return Rejected(f"MongoDB refuses: {_summary(error)}")


def passing(error: Exception) -> bool:
    """Whether the same call may succeed later.

    What MongoDB says of a whole command is about the state of the world (a right, a version, a view in the
    collection's place), unless its code is one of data. What it says of one write is about its document,
    unless its code is one that passes.
    """
    if isinstance(error, BulkWriteError):
        return bool(error.details.get("writeConcernErrors")) or bool(_codes(error) & _STATES)
    if isinstance(error, ConnectionFailure | AutoReconnect | CursorNotFound | WriteConcernError):
        return True
    if isinstance(error, OperationFailure):
        if error.code in _STATES or error.timeout or error.has_error_label("RetryableWriteError"):
            return True
        data = error.code in _DATA or (error.code or 0) >= FIRST_LOCATION
        return not isinstance(error, WriteError) and not data
    if isinstance(error, ConfigurationError | InvalidOperation):
        # At run time the one is about the servers (too old, or without the mechanism of our login), and the
        # other says that we have closed the client: neither is about a document.
        return True
    return isinstance(error, PyMongoError) and error.timeout


async def narrowed(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[int]]
) -> tuple[int, list[tuple[T, Rejected]]]:
    """Write `items`, in halves where some are refused for good, so that each culprit stands alone.

    Args:
        items: what to write.
        write: writes some of them and says how many it changed; to repeat it changes nothing.

    Returns:
        How many were changed altogether, and the culprits with what was said of them.

    Raises:
        Unavailable: as `write` does.
    """
    changed = 0
    culprits: list[tuple[T, Rejected]] = []
    pending = [items] if items else []
    while pending:
        part = pending.pop()
        try:
            changed += await write(part)
        except Rejected as error:
            if len(part) > 1:
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                culprits.append((part[0], error))
    return changed, culprits


def _codes(error: Exception) -> set[Any]:
    if isinstance(error, ServerSelectionTimeoutError):
        # After a refused login the driver counts the server as lost, and quotes what it said.
        return {int(each) for each in _CODE.findall(str(error))}
    if isinstance(error, BulkWriteError):
        details = error.details
        return {each.get("code") for each in details.get("writeErrors", ())}
    return {error.code} if isinstance(error, OperationFailure) else set()


def _summary(error: Exception) -> str:
    if isinstance(error, BulkWriteError):
        found = [*error.details.get("writeConcernErrors", ()), *error.details.get("writeErrors", ())]
        codes = sorted({each.get("code", 0) for each in found})
        return f"error {', '.join(map(str, codes))}"
    if isinstance(error, OperationFailure):
        name = (error.details or {}).get("codeName", "")
        return f"error {error.code or 'without a number'} {name}".rstrip()
    if not isinstance(error, PyMongoError):
        return _OF_PYTHON.get(type(error).__name__, "a value cannot be written as BSON")
    for kind, words in _OF_THE_DRIVER:
        if kind in {each.__name__ for each in type(error).__mro__}:
            said = brief(str(error))
            return f"{words}: {said}" if said and kind not in _SAYS_NOTHING else words
    return brief(str(error)) or "the driver does not say why"


def brief(text: str) -> str:
    """Without what the driver appends for its own developers: time-outs and the topology as it sees it."""
    return _BRIEF.split(text, maxsplit=1)[0][:200]


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What the server's clock showed, in epoch seconds, between two moments on our monotonic one."""

    server: float
    asked: float
    answered: float

    def age(self, monotonic: float) -> float:
        """Seconds since it was taken."""
        return monotonic - self.answered

    def low_end(self, monotonic: float) -> float:
        """The earliest that the server's clock can show now."""
        return self.server + self.age(monotonic) * (1 - CLOCK_DRIFT)

    def high_end(self, monotonic: float) -> float:
        """The latest that the server's clock can show now."""
        return self.server + (monotonic - self.asked) * (1 + CLOCK_DRIFT)


class ServerClock:
    """An estimate of the server's time that never runs ahead of it, for what `$$NOW` cannot write.

    An insert cannot compute, so a letter's due time is ours to say; were it later than the server's
    time, the letter could not be claimed at once.
    """

    def __init__(self, client: Client, clock: Clock) -> None:
        self._admin = client.get_database("admin")
        self._clock = clock
        self._reading: ClockReading | None = None

    async def now(self) -> datetime:
        """The server's time, at its low end; asks the server when the last reading is old.

        To be called within `calling`.
        """
        return now_ms(await self.epoch())

    async def epoch(self, age: float = CLOCK_AGE) -> float:
        """The same in epoch seconds, from a reading no older than `age`. To be called within `calling`."""
        reading = self._reading
        if reading is None or reading.age(self._clock.monotonic()) > age:
            reading = await self._read()
            self._reading = reading
        return reading.low_end(self._clock.monotonic())

    def latest(self) -> datetime:
        """The server's time, at its high end, after `now` was asked."""
        if self._reading is None:
            raise RuntimeError("the server's clock was not read yet")
        return now_ms(self._reading.high_end(self._clock.monotonic()) + MILLISECOND)

    def forget(self) -> None:
        """Ask again before the next use: another member, with another clock, may have taken over."""
        self._reading = None

    async def _read(self) -> ClockReading:
        asked = self._clock.monotonic()
        hello = await self._admin.command("hello", codec_options=CODEC)
        answered = self._clock.monotonic()
        return ClockReading(server=hello["localTime"].timestamp(), asked=asked, answered=answered)
