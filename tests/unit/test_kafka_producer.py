"""The sink over a producer of the test's own: what a partition in trouble does to the others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTimestampError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownProducerId,
    kafka_errors,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.structs import RecordMetadata, TopicPartition
from structlog.testing import capture_logs

from mailsender.kafka.client import KafkaConfig
from mailsender.kafka.producer import KafkaSink, _abandon
from mailsender.model.errors import Forbidden, Rejected, TooLarge, Unavailable
from mailsender.model.records import Landed, Outgoing

pytestmark = pytest.mark.asyncio

PARTITIONS = 3
InvalidRecord = kafka_errors.get(87, Exception)


class Producer:
    """Takes batches; `answer` says what becomes of one, None being no answer at all."""

    def __init__(self) -> None:
        self.cached: set[int] | None = None  # what the client's own copy of the metadata says
        cluster = SimpleNamespace(partitions_for_topic=lambda _: self.cached)
        self.reached = False  # whether a broker answers when it is asked anew
        self.client = SimpleNamespace(
            _conns={1: SimpleNamespace(connected=lambda: True)},
            cluster=cluster,
            force_metadata_update=self._update,
        )
        self.sent: list[tuple[str, int, int]] = []
        self.silent: list[asyncio.Future[Any]] = []
        self.answer: Callable[[str, int, int], Exception | bool] = lambda _topic, _partition, _count: True

    async def _update(self) -> bool:
        return self.reached

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(PARTITIONS))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(100_000, 0, is_transactional=False, key_serializer=None, value_serializer=None)

    async def send_batch(self, builder: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        count = builder.record_count()
        self.sent.append((topic, partition, count))
        answer = self.answer(topic, partition, count)
        if answer is True:
            place = TopicPartition(topic, partition)
            future.set_result(RecordMetadata(topic, partition, place, 7, -1, 0, 0))
        elif answer is False:
            self.silent.append(future)
        else:
            future.set_exception(answer)
        return future


class Stage:
    """A sink that has such a producer at once, and a new one whenever it wants one."""

    def __init__(self, **config: Any) -> None:
        self.sink = KafkaSink(KafkaConfig(brokers=("b:1",), **{"timeout": 0.2, **config}))
        self.producer = Producer()
        self.replaced: list[str] = []
        keeper: Any = self.sink._keeper
        keeper._client = self.producer
        keeper.replace = lambda _, why: self.replaced.append(why)


def keys_of(partition: int, count: int) -> list[bytes]:
    """Keys that lie in one partition."""
    every, found, n = list(range(PARTITIONS)), [], 0
    while len(found) < count:
        key = b"k%d" % n
        n += 1
        if DefaultPartitioner()(key, every, every) == partition:
            found.append(key)
    return found


def to(partition: int, count: int = 1, topic: str = "out") -> list[Outgoing]:
    return [Outgoing(topic=topic, key=key, value=b"x") for key in keys_of(partition, count)]


def kinds(answers: list[Landed | Exception]) -> list[type]:
    return [type(answer) for answer in answers]


def sick(partition: int, topic: str = "out") -> Callable[[str, int, int], bool]:
    return lambda name, place, _: (name, place) != (topic, partition)


async def test_a_partition_that_tells_nothing_holds_up_the_others_once() -> None:
    stage = Stage(timeout=0.3)
    stage.producer.answer = sick(1)
    loop = asyncio.get_running_loop()
    first = await stage.sink.publish([*to(0), *to(1), *to(2)])
    assert kinds(first) == [Landed, Unavailable, Landed]
    began = loop.time()
    for _ in range(20):
        assert kinds(await stage.sink.publish([*to(1, 3), *to(0), *to(2)])) == [
            *[Unavailable] * 3,
            *[Landed] * 2,
        ]
    assert loop.time() - began < 0.15
    assert [each for each in stage.producer.sent if each[1] == 1] == [("out", 1, 1)]
    assert stage.replaced == []


async def test_trouble_belongs_to_a_topic() -> None:
    stage = Stage()
    stage.producer.answer = lambda topic, _partition, _count: topic != "reports"
    await stage.sink.publish([each for n in range(3) for each in to(n, topic="reports")])
    await stage.sink.publish(to(0))
    assert "reports" in stage.sink.trouble_with("reports")
    assert stage.sink.trouble_with("out") == ""
    assert stage.sink.trouble == ""


async def test_without_any_connection_it_is_no_partition_that_is_in_trouble() -> None:
    stage = Stage()
    stage.producer.answer = lambda *_: False
    await stage.sink.publish(to(1))
    stage.producer.client._conns.clear()
    assert "no broker can be reached" in stage.sink.trouble
    assert "no broker can be reached" in stage.sink.trouble_with("another")


async def test_one_partition_in_trouble_is_no_trouble_of_its_topic() -> None:
    stage = Stage()
    stage.producer.answer = sick(1)
    await stage.sink.publish([*to(0), *to(1)])
    assert stage.sink.trouble_with("out") == ""
    assert stage.sink.trouble == ""


async def test_a_topic_that_may_not_be_written_to_is_in_trouble_whole_until_it_may() -> None:
    stage = Stage()
    stage.producer.answer = lambda *_: TopicAuthorizationFailedError()
    await stage.sink.publish(to(0))
    assert "TopicAuthorizationFailed" in stage.sink.trouble_with("out")
    assert stage.sink.trouble_with("another") == ""
    stage.producer.answer = lambda *_: True
    await stage.sink.publish(to(2))
    assert stage.sink.trouble_with("out") == ""


async def test_a_topic_whose_partitions_nobody_knows_is_in_trouble_whole_until_somebody_does() -> None:
    stage = Stage()

    async def unknown(_: str) -> set[int]:
        await asyncio.Event().wait()
        return set()

    known = stage.producer.partitions_for
    stage.producer.partitions_for = unknown  # type: ignore[method-assign]
    await stage.sink.publish(to(0))
    assert "which partitions" in stage.sink.trouble_with("out")
    stage.producer.partitions_for = known  # type: ignore[method-assign]
    await stage.sink.publish(to(0))
    assert stage.sink.trouble_with("out") == ""


async def test_a_reason_is_made_anew_each_time() -> None:
    stage = Stage()
    stage.producer.answer = lambda *_: False
    texts = set()
    for _ in range(5):
        (answer,) = await stage.sink.publish(to(1))
        texts.add(str(answer))
    assert texts == {"Kafka: partition 1 of out: no acknowledgement in time"}


async def test_an_acknowledgement_that_comes_late_ends_the_trouble() -> None:
    stage = Stage()
    stage.producer.answer = sick(1)
    with capture_logs() as logs:
        assert kinds(await stage.sink.publish(to(1))) == [Unavailable]
        stage.producer.answer = lambda *_: True
        place = TopicPartition("out", 1)
        stage.producer.silent[0].set_result(RecordMetadata("out", 1, place, 7, -1, 0, 0))
        await asyncio.sleep(0)
        assert kinds(await stage.sink.publish(to(1))) == [Landed]
    assert [entry["event"] for entry in logs] == ["kafka_publishing_trouble", "kafka_publishing_well"]


async def test_what_waits_alone_for_its_partition_is_sent_as_soon_as_that_is_free() -> None:
    stage = Stage(timeout=5.0)
    lane = stage.sink._lanes.of("out", 1)
    on_its_way: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    lane.ail("no acknowledgement in time", on_its_way)
    publishing = asyncio.create_task(stage.sink.publish(to(1)))
    await asyncio.sleep(0.01)
    assert not publishing.done()
    on_its_way.set_result(None)
    assert kinds(await publishing) == [Landed]


async def test_many_that_wait_for_their_partition_are_answered_at_once() -> None:
    stage = Stage(timeout=5.0)
    on_its_way: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    stage.sink._lanes.of("out", 1).ail("no acknowledgement in time", on_its_way)
    async with asyncio.timeout(0.5):
        assert kinds(await stage.sink.publish(to(1, 20))) == [Unavailable] * 20


async def test_records_without_a_key_and_those_that_may_lie_anywhere_avoid_a_partition_in_trouble() -> None:
    stage = Stage()
    stage.producer.answer = sick(1)
    await stage.sink.publish(to(1))
    keyless = [Outgoing(topic="out", key=None, value=b"x") for _ in range(30)]
    anywhere = [Outgoing(topic="out", key=key, value=b"x", anywhere=True) for key in keys_of(1, 30)]
    for each in [*keyless, *anywhere]:
        assert kinds(await stage.sink.publish([each])) == [Landed]


async def test_what_may_lie_anywhere_goes_elsewhere_within_the_call_that_finds_the_trouble() -> None:
    stage = Stage(timeout=3.0)
    stage.producer.answer = lambda _topic, partition, _count: partition != 1 or LeaderNotAvailableError()
    (record,) = to(1)
    moved = Outgoing(topic="out", key=record.key, value=b"x", anywhere=True)
    (answer,) = await stage.sink.publish([moved])
    assert isinstance(answer, Landed)
    assert answer.partition != 1


async def test_a_producer_through_which_nothing_goes_any_more_is_given_up() -> None:
    stage = Stage(stall=0.3)
    stage.producer.answer = lambda *_: False
    stage.sink._acked = asyncio.get_running_loop().time()
    await stage.sink.publish(to(1))
    assert stage.replaced == []
    await asyncio.sleep(0.15)
    await stage.sink.publish([*to(1), *to(2)])
    assert len(stage.replaced) == 1


# --- records that are refused for good -----------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, ProducerFenced]
)
async def test_a_producer_that_one_partition_does_not_take_is_given_up_though_others_do(
    error: type[Exception],
) -> None:
    """Else that partition would get nothing again, while all looks well."""
    stage = Stage()
    stage.producer.answer = lambda _, partition, __: partition != 1 or error()
    answers = await stage.sink.publish([*to(0), *to(1), *to(2)])
    assert kinds(answers) == [Landed, Unavailable, Landed]
    assert stage.replaced


async def test_a_record_that_the_broker_refuses_for_good_is_set_apart() -> None:
    stage = Stage(timeout=3.0)
    keyless = Outgoing(topic="out", key=None, value=b"x")
    records = [*to(0, 2), keyless, *to(0, 2)]
    for other in (1, 2):
        stage.sink._lanes.of("out", other).ail("away", None)  # so that it lies with the others
    last: list[bytes | None] = []

    class Noting(BatchBuilder):
        def append(self, **told: Any) -> Any:
            last[:] = [told["key"]]
            return super().append(**told)

    stage.producer.create_batch = lambda: Noting(  # type: ignore[method-assign]
        100_000, 0, is_transactional=False, key_serializer=None, value_serializer=None
    )
    stage.producer.answer = lambda _topic, _partition, count: (
        InvalidRecord() if count > 1 or last == [None] else True
    )
    answers = await stage.sink.publish(records)
    assert kinds(answers) == [Landed, Landed, Rejected, Landed, Landed]
    assert stage.sink.trouble_with("out") == ""
    sent = len(stage.producer.sent)
    assert kinds(await stage.sink.publish([keyless] * 500)) == [Rejected] * 500
    assert len(stage.producer.sent) == sent  # it is known by now


async def test_where_a_broker_refuses_the_time_of_our_clock_records_go_without_one() -> None:
    """Brokers refuse times that are an hour ahead; the record is not at fault."""
    stage = Stage(timeout=3.0)
    times: list[int | None] = []

    class Noting(BatchBuilder):
        def append(self, **told: Any) -> Any:
            times.append(told["timestamp"])
            return super().append(**told)

    stage.producer.create_batch = lambda: Noting(  # type: ignore[method-assign]
        100_000, 0, is_transactional=False, key_serializer=None, value_serializer=None
    )
    stage.producer.answer = lambda *_: times[-1] == -1 or InvalidTimestampError()
    with capture_logs() as logs:
        assert kinds(await stage.sink.publish(to(0, 3))) == [Landed] * 3
        assert kinds(await stage.sink.publish(to(0, 3))) == [Landed] * 3
    assert times == [None] * 3 + [-1] * 6
    assert [entry["event"] for entry in logs] == ["clocks_disagree"]
    assert stage.sink.trouble_with("out") == ""


async def test_what_is_too_large_for_a_topic_is_known_after_the_first_one() -> None:
    stage = Stage(timeout=3.0)
    stage.producer.answer = lambda *_: MessageSizeTooLargeError()
    large = Outgoing(topic="out", key=b"k", value=b"x" * 50_000)
    assert kinds(await stage.sink.publish([large])) == [TooLarge]
    stage.producer.answer = lambda *_: True
    larger = Outgoing(topic="out", key=b"k", value=b"x" * 60_000)
    smaller = Outgoing(topic="out", key=b"k", value=b"x" * 40_000)
    assert kinds(await stage.sink.publish([larger, smaller, large])) == [TooLarge, Landed, TooLarge]
    assert len(stage.producer.sent) == 2


async def test_headers_are_a_part_of_what_is_too_large() -> None:
    stage = Stage(timeout=3.0)
    stage.producer.answer = lambda *_: MessageSizeTooLargeError()
    headed = Outgoing(topic="out", key=b"k", value=b"x", headers=((("h" * 1000), b"x" * 49_000),))
    assert kinds(await stage.sink.publish([headed])) == [TooLarge]
    stage.producer.answer = lambda *_: True
    small = Outgoing(topic="out", key=b"k", value=b"x" * 40_000)
    assert kinds(await stage.sink.publish([small, headed])) == [Landed, TooLarge]
    assert len(stage.producer.sent) == 2


async def test_headers_are_a_part_of_what_the_client_finds_too_large() -> None:
    stage = Stage(max_request_size=50_000)
    headed = Outgoing(topic="out", key=b"k", value=b"x", headers=(("many", b"x" * 25_000), ("h", None)) * 2)
    assert kinds(await stage.sink.publish([headed])) == [TooLarge]
    assert stage.producer.sent == []


async def test_a_topic_that_we_may_not_write_to_costs_no_producer() -> None:
    stage = Stage()
    stage.producer.answer = lambda topic, *_: topic == "out" or TopicAuthorizationFailedError()
    answers = await stage.sink.publish([*to(0, topic="kept for others"), *to(0)])
    assert kinds(answers) == [Forbidden, Landed]
    assert stage.replaced == []
    # Within its pause nothing is sent there, and what is said is as certain.
    assert kinds(await stage.sink.publish(to(0, topic="kept for others"))) == [Forbidden]


async def test_a_topic_that_is_known_again_is_well_without_a_further_record() -> None:
    """There may be none for hours, and the service would not be ready for as long."""
    stage = Stage(timeout=0.05)
    stage.producer.partitions_for = lambda _: asyncio.Event().wait()  # type: ignore[assignment,method-assign]
    assert kinds(await stage.sink.publish(to(0))) == [Unavailable]
    assert "which partitions" in stage.sink.trouble_with("out")
    stage.producer.cached = {0, 1, 2}
    assert stage.sink.trouble_with("out") == ""
    assert stage.sink.trouble_with("out") == ""


async def test_a_topic_that_does_not_exist_is_called_so() -> None:
    stage = Stage(timeout=0.05)
    stage.producer.partitions_for = lambda _: asyncio.Event().wait()  # type: ignore[assignment,method-assign]
    stage.producer.reached = True
    (answer,) = await stage.sink.publish(to(0))
    assert "the brokers know no such topic" in str(answer)
    assert stage.sink.trouble_with("out") == "out: the brokers know no such topic, or have just made it"


@pytest.mark.parametrize("moment", ["metadata", "batch"])
async def test_a_topic_that_may_not_be_written_to_is_in_trouble_until_it_takes_something(moment: str) -> None:
    stage = Stage(timeout=0.05)
    well = stage.producer.partitions_for
    if moment == "batch":
        stage.producer.answer = lambda *_: TopicAuthorizationFailedError()
    else:
        stage.producer.partitions_for = refusing(TopicAuthorizationFailedError())  # type: ignore[method-assign]
    await stage.sink.publish(to(0))
    stage.producer.partitions_for = well  # type: ignore[method-assign]
    stage.producer.cached = {0, 1, 2}
    assert "TopicAuthorizationFailed" in stage.sink.trouble_with("out")
    stage.producer.answer = lambda *_: False
    # It may be stored yet: that nothing was heard is no refusal.
    assert kinds(await stage.sink.publish(to(1))) == [Unavailable]
    assert "TopicAuthorizationFailed" in stage.sink.trouble_with("out"), "that it is there is no right"
    stage.producer.answer = lambda *_: True
    assert kinds(await stage.sink.publish(to(2))) == [Landed]
    assert stage.sink.trouble_with("out") == ""


def refusing(error: Exception) -> Callable[[str], Any]:
    async def refuse(_: str) -> set[int]:
        raise error

    return refuse


async def test_a_record_that_cannot_be_written_harms_no_neighbour() -> None:
    stage = Stage()
    (good,) = to(0)
    bad = Outgoing(topic="out", key=good.key, value=b"x", headers=(("\udcff", b""),))
    assert kinds(await stage.sink.publish([good, bad, good])) == [Landed, Rejected, Landed]


# --- a producer that is given up -----------------------------------------------------------------


async def test_a_producer_that_is_given_up_leaves_no_complaint_of_python() -> None:
    """Nobody waits for some of the futures that the library fails then."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    waiting = MessageAccumulator(SimpleNamespace(), 1000, 0, 10.0, loop=loop)
    builder = waiting.create_builder()
    builder.append(timestamp=None, key=None, value=b"x", headers=[])
    acknowledged = await waiting.add_batch(builder, TopicPartition("out", 0), 1.0)
    acknowledged.add_done_callback(lambda future: future.exception())

    async def close() -> None:
        pass

    client = SimpleNamespace(close=close, _get_conn_lock=asyncio.Lock(), _sync_task=None)
    sender = SimpleNamespace(sender_task=None)
    await _abandon(SimpleNamespace(_message_accumulator=waiting, client=client, _sender=sender))
    del waiting, builder, acknowledged
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
