"""Records that an outsider may write, made to do harm; and what became of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from proof import gather
from proof.history import History, Report
from proof.load import DOMAIN
from proof.raw import RawProducer
from proof.run import Run

PREFIX = "hostile"
"""Begins the token, and the mark in the subject, of all their letters."""

TOPIC_MAXIMUM = 1_048_588
"""Bytes of a batch that a topic takes unless it is told otherwise."""

FRAME = 150
"""Bytes of a batch and a record around key, value and headers, with some to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A record to be written. `marks` are the tokens of its letters, as far as each needs a report."""

    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    packed: bool = False
    marks: tuple[str, ...] = ()


Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to do harm. `needs` is the largest batch that the topic has to take for it."""

    title: str
    make: Callable[[Random], Iterator[Put]]
    needs: int = TOPIC_MAXIMUM


def element(mark: str, **more: object) -> dict[str, object]:
    """A letter that would be good."""
    made = {"Subject": f"[{mark}]", "Body": "x", "Addresses": [f"one@{DOMAIN}"], "Token": mark}
    return {**made, **more}


def _json(*elements: object) -> bytes:
    return json.dumps(elements).encode()


def _id(chance: Random) -> str:
    return f"{chance.randrange(1, 2**96):024x}"


def same_id_large_keys(chance: Random) -> Iterator[Put]:
    """The same letter twenty times, each time with a key of 900 kB: all want an answer of their own."""
    yield from _repeats(chance, "keys", 20, key=900_000)


def same_id_to_the_brim(chance: Random) -> Iterator[Put]:
    """The same letter with ever smaller keys, until what is joined fills a document to its last bytes."""
    number, place = _id(chance), 0
    for size, count in ((900_000, 18), (100_000, 6), (10_000, 10), (1_000, 10), (100, 10)):
        for _ in range(count):
            mark = f"{PREFIX}.brim.{place}"
            made = element(f"{PREFIX}.brim", ID=number, Token=mark)
            yield Put(value=_json(made), key=b"%099d." % place + b"k" * (size - 100), marks=(mark,))
            place += 1


def same_id_often(chance: Random) -> Iterator[Put]:
    """Three thousand times, as by a producer in a loop."""
    yield from _repeats(chance, "often", 3000, key=16)


def _repeats(chance: Random, name: str, count: int, *, key: int) -> Iterator[Put]:
    number = _id(chance)
    for place in range(count):
        mark = f"{PREFIX}.{name}.{place}"
        made = element(f"{PREFIX}.{name}", ID=number, Token=mark)
        yield Put(value=_json(made), key=(b"%08d" % place) * (key // 8), marks=(mark,))


def largest_keys(_: Random) -> Iterator[Put]:
    """Keys as large as the topic takes them, and letters enough to fill the memory with them."""
    for place in range(60):
        mark = f"{PREFIX}.largest.{place}"
        value = _json(element(mark))
        yield Put(value=value, key=b"k" * (TOPIC_MAXIMUM - FRAME - len(value)), marks=(mark,))


def larger_keys(_: Random) -> Iterator[Put]:
    """Keys of 3.2 MB, of bad and of good letters, where the topic takes them."""
    for place in range(10):
        mark = f"{PREFIX}.larger.{place}"
        more = {"Addresses": "none"} if place % 2 else {}
        yield Put(value=_json(element(mark, **more)), key=b"k" * 3_200_000, marks=(mark,))


def odd_headers(chance: Random) -> Iterator[Put]:
    """Names of headers that are no UTF-8, empty, huge, or thousands."""
    names: list[tuple[tuple[bytes, bytes], ...]] = [((b"\xff\xfe", b"x"),), ((b"\xed\xa0\x80", b""),)]
    names += [((b"", b""),), ((b"n" * 100_000, b"v" * 100_000),)]
    names += [tuple((b"%d" % number, chance.randbytes(3)) for number in range(5000))]
    for place, headers in enumerate(names):
        for value in (_json(element(f"{PREFIX}.headers.{place}")), b"no batch"):
            marks = (f"{PREFIX}.headers.{place}",) if value.startswith(b"[") else ()
            yield Put(value=value, headers=headers, marks=marks)


def packed(_: Random) -> Iterator[Put]:
    """Below 1 MB on the topic, 200 MB in memory."""
    yield Put(value=b" " * 200_000_000, packed=True)
    yield Put(value=b"[" + b" " * 100_000_000 + b"]", packed=True)
    filler = b'[{"Subject":"' + b"x" * 50_000_000 + b'","Addresses":["one@' + DOMAIN.encode() + b'"]}]'
    yield Put(value=filler, packed=True)


def many_elements(_: Random) -> Iterator[Put]:
    """A batch of 333,000 letters, none of which is one."""
    yield Put(value=b"[" + b",".join([b"{}"] * 333_000) + b"]")


def many_good_elements(_: Random) -> Iterator[Put]:
    """A batch of as many small letters as a megabyte holds, half of them bad."""
    tail = f'"Addresses":["one@{DOMAIN}"]'.encode()
    yield Put(value=b"[" + b",".join([b"{" + tail + b"}", b'{"Body":1}'] * 18_000) + b"]")


def odd_json(_: Random) -> Iterator[Put]:
    """Deep nesting, half surrogates, numbers without end, names without end."""
    deep = b"[" * 400_000 + b"]" * 400_000
    odd = [
        deep,
        b'[{"Token":' + deep + b"}]",
        b'[{"a":' * 100_000,
        b"[" + b"9" * 900_000 + b"]",
        b'[{"Token":' + b"1" * 4_000 + b',"Addresses":["a@b.c"]}]',
        b'[{"Token":1e400,"Addresses":["a@b.c"]}]',
        b'["' + b"\\ud800" * 100_000 + b'"]',
        b'[{"' + b"\\udfff" * 100_000 + b'":1}]',
        b'[{"Addresses":[' + b",".join([b'"a@b.c"'] * 100_000) + b"]}]",
        b'[{"Subject":"' + b"\\u0000" * 100_000 + b'"}]',
        b'[{"Body":"' + b"\\r\\n.\\r\\n" * 80_000 + b'"}]',
        b"[{" + b",".join([b'"a%d":1' % number for number in range(80_000)]) + b"}]",
        b"[" * 1_000_000,
        b'[{"Token":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}]",
    ]
    for value in odd:
        yield Put(value=value)
    for place, field in enumerate(("Subject", "Body", "Token")):
        mark = f"{PREFIX}.odd.{place}"
        made = element(mark, **{field: ["\ud800" * 1000, mark] if field == "Token" else "\ud800" * 1000})
        yield Put(value=_json(made), marks=(mark,) if field != "Token" else ())


KINDS = {
    "large keys": Kind(title="one ID 20 times with keys of 900 kB", make=same_id_large_keys),
    "brim": Kind(title="one ID joined until a document is full", make=same_id_to_the_brim),
    "repeats": Kind(title="one ID 3,000 times", make=same_id_often),
    "largest keys": Kind(title="60 keys as large as the topic takes", make=largest_keys),
    "larger keys": Kind(title="keys of 3.2 MB", make=larger_keys, needs=4_000_000),
    "headers": Kind(title="header names that are none", make=odd_headers),
    "packed": Kind(title="records that unpack to 200 MB", make=packed),
    "elements": Kind(title="a batch of 333,000 elements", make=many_elements),
    "good elements": Kind(title="a batch of 36,000 elements, half of them good", make=many_good_elements),
    "JSON": Kind(title="nesting, surrogates, numbers, names without end", make=odd_json),
}


def allow(world: Run, largest: int) -> None:
    """Let the in-topic take batches of so many bytes; as ever where that is enough."""
    if largest > TOPIC_MAXIMUM:
        configure(world, "max.message.bytes", largest)


def configure(world: Run, name: str, value: int | str, *, topic: str = "") -> None:
    """Give a topic a setting of its own; the in-topic, unless another is named."""
    admin = AdminClient({"bootstrap.servers": world.stage.broker.bootstrap, "log_level": 0})
    entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic or world.topics.letters, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)


def write(world: Run, puts: Iterator[Put], partition: int) -> dict[Place, Put]:
    """Write them, one after the other; where each lies."""
    producer = RawProducer(world.stage.broker.bootstrap)
    written: dict[Place, Put] = {}
    try:
        for number, raw in enumerate(puts):
            # Who names no letters is known by his key.
            each = raw if raw.marks else replace(raw, key=b"%s key %d" % (PREFIX.encode(), number))
            offset = producer.put(
                world.topics.letters,
                each.value,
                partition=partition,
                key=each.key,
                headers=each.headers,
                packed=each.packed,
            )
            # What it holds was written and is not needed again.
            written[partition, offset] = replace(each, value=b"", key=None if each.marks else each.key)
    finally:
        producer.close()
    return written


def unanswered(world: Run, written: dict[Place, Put], reports: Sequence[Report]) -> list[str]:
    """Which of these records nothing became of: they are no dead letters, and not all letters are reported.

    Of a record that names no letters one report is enough; it is known by the record's key.
    """
    dead = _buried(world) | _kept(world)
    marks, keys = {each.mark for each in reports}, {each.key for each in reports}
    left = []
    for place, put in written.items():
        missing = [mark for mark in put.marks if mark not in marks]
        told = not missing if put.marks else (put.key or b"").decode("utf-8", "replace") in keys
        if place not in dead and not told:
            left.append(f"partition {place[0]}, offset {place[1]}: {', '.join(missing[:3]) or 'no answer'}")
    return left


def _buried(world: Run) -> set[Place]:
    found = set()
    for record in world.world.records(world.topics.dead):
        told = dict(record.headers() or ())
        found.add((int(told["mailsender-partition"]), int(told["mailsender-offset"])))
    return found


def _kept(world: Run) -> set[Place]:
    with world.world.letters() as letters:
        return {
            (each["_id"]["partition"], each["_id"]["offset"])
            for each in letters.deadletters.find({"_id.chunk": {"$exists": False}}, {"_id": 1})
        }


def only(history: History, publisher: str) -> History:
    """What is known of one publisher's letters, by their marks, which his name begins; no dead letters."""

    def kept(mark: str) -> bool:
        return mark.startswith(publisher)

    return replace(
        history,
        acceptances=tuple(each for each in history.acceptances if kept(each.mark)),
        reports=tuple(each for each in history.reports if kept(each.mark)),
        stored=tuple(each for each in history.stored if kept(each.mark)),
        dead=(),
    )


def wait_committed(world: Run, written: Iterable[Place], timeout: float) -> bool:
    """Wait until the group has passed all of them, while anybody works at it; whether it has."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(each.child.running for each in world.world.replicas):
        try:
            places = gather.offsets(world.stage.broker.bootstrap, world.topics.group, world.topics.letters)
        except KafkaException:
            continue
        if all(places.get(partition, (0, 0))[0] > offset for partition, offset in written):
            return True
        world.read_reports(0.2)
    return False
