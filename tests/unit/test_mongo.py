"""What a connection string may say, and what it may not change."""

from __future__ import annotations

import re

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    CursorNotFound,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteError,
    WTimeoutError,
    _OperationCancelled,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.queue.mongo import client as mongo

OPTIONS = [
    "readPreference=secondaryPreferred",
    "readPreference=nearest&readPreferenceTags=dc:east&maxStalenessSeconds=120",
    "readConcernLevel=available",
    "readConcernLevel=linearizable",
    "w=0",
    "w=1&journal=false&wtimeoutMS=1",
    "retryWrites=false&retryReads=false",
    "maxPoolSize=1&waitQueueTimeoutMS=1",
    "timeoutMS=1&socketTimeoutMS=1&serverSelectionTimeoutMS=1",
    "uuidRepresentation=standard&unicode_decode_error_handler=strict&tz_aware=false",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.asyncio
async def test_no_connection_string_takes_a_promise_back(options: str, driver: mongo.Driver) -> None:
    """Reads that decide ask the primary, and what was acknowledged a majority has."""
    uri = f"mongodb://127.0.0.1:1/?{options}"
    client = mongo.connect(uri, timeout=7.0, app_name="unit", driver=driver)
    letters = mongo.durable(client, "mts", "letters", 7.0)
    assert letters.read_preference == ReadPreference.PRIMARY
    assert letters.read_concern == ReadConcern("local")
    assert mongo.committed(letters).read_preference == ReadPreference.PRIMARY
    assert mongo.committed(letters).read_concern == ReadConcern("majority")
    assert letters.write_concern == WriteConcern(w="majority", j=True, wtimeout=7000)
    assert letters.codec_options == mongo.CODEC
    inner = client if driver == "pymongo" else client.delegate
    assert inner.options.timeout == 7.0
    assert inner.options.pool_options.max_pool_size == mongo.POOL
    assert inner.options.pool_options.wait_queue_timeout == 7.0
    await mongo.disconnect(client, 1.0)


def test_no_name_of_a_class_of_the_driver_is_said() -> None:
    """Somebody reads it who runs mail, not Python."""
    hang = _OperationCancelled("operation cancelled")
    assert str(mongo.translated(hang)) == (
        "MongoDB is not available: a server does not answer any more, and its connections were given up"
    )
    for error in [
        ServerSelectionTimeoutError("h:1: [Errno 111] Connection refused, Timeout: 1s, Topology Description"),
        NetworkTimeout("h:1: timed out"),
        AutoReconnect("connection closed"),
        NotPrimaryError("not primary"),
        WaitQueueTimeoutError("Timed out while checking out a connection from connection pool"),
        ConfigurationError("wire version"),
        WTimeoutError("waiting for replication timed out", 64),
        CursorNotFound("cursor id 7 not found", 43),
        BulkWriteError({"writeErrors": [{"code": 11600}], "writeConcernErrors": []}),
        WriteError("x", 121),
        OperationFailure("x"),
        InvalidDocument("cannot encode"),
        OverflowError("x"),
        RecursionError(),
        PyMongoError("closed"),
        AutoReconnect(),
    ]:
        said = str(mongo.translated(error)).removeprefix("MongoDB ")
        assert not re.search(r"[a-z][A-Z]|_|Error|: $", said), said
    assert "h:1: [Errno 111] Connection refused" in str(
        mongo.translated(ServerSelectionTimeoutError("h:1: [Errno 111] Connection refused, Timeout: 1s"))
    )


def test_what_the_server_says_is_a_state_of_the_world_or_a_fault_of_the_data() -> None:
    states = [
        *[OperationFailure("x", code) for code in (20, 59, 73, 166, 1, 8, 26, 10107, 64)],
        OperationFailure("x", 9999),
        ConfigurationError("wire version"),
        WriteError("x", 14031),
        WriteError("transaction is too large and will not fit in the storage engine cache", 388),
        BulkWriteError({"writeErrors": [{"code": 11600}], "writeConcernErrors": []}),
        BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}),
    ]
    for error in states:
        found = mongo.translated(error)
        assert isinstance(found, Unavailable), error
        assert not isinstance(found, Forbidden)
    faults = [
        *[OperationFailure("x", code) for code in (2, 9, 14, 15, 22, 10334, 17419, 40353)],
        WriteError("x", 121),
        WriteError("x", 171),
        BulkWriteError({"writeErrors": [{"code": 121}, {"code": 17419}], "writeConcernErrors": []}),
        OverflowError("x"),
    ]
    for each in faults:
        assert isinstance(mongo.translated(each), Rejected), each
    for code in (11, 13, 18):
        told = mongo.translated(OperationFailure("user bob in secret-db", code))
        assert isinstance(told, Forbidden)
        assert "MONGODB_USERNAME" in str(told)
        assert "bob" not in str(told)


def test_what_atlas_refuses_may_be_a_quota_or_a_right() -> None:
    told = mongo.translated(OperationFailure("you are over your space quota, using 513 MB of 512 MB", 8000))
    assert isinstance(told, Forbidden)
    assert [word for word in ("space", "right", "MONGODB_USERNAME") if word not in str(told)] == []
    assert "513" not in str(told)


@pytest.mark.parametrize("code", [12501, 16500])
def test_what_a_service_refuses_for_its_own_load_condemns_no_letter(code: int) -> None:
    assert mongo.passing(OperationFailure("quota exceeded", code))
    assert mongo.passing(
        BulkWriteError({"writeErrors": [{"index": 0, "code": code}], "writeConcernErrors": []})
    )
