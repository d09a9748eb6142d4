"""Who else is a member of our consumer group. What another program reads there is sent by nobody.

A broker lets such a member in where it shares partitions by the same rules, and since Kafka 4.0 any that uses
the newer protocol (KIP-848, `group.protocol=consumer`). Of a group with one of those only a newer request
tells.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from mailsender.kafka.client import OURS
from mailsender.model.text import one_line

NAMED = 5
"""Members that are named; of more it is said how many there are."""

LONGEST = 100
"""Characters of a name that are told."""

_TEXT = CompactString("utf-8")


async def strangers(client: AIOKafkaClient, coordinator: int, group: str) -> list[str]:
    """The members of `group` whose client id is not ours, each as "client id at host".

    Args:
        client: connected; it is asked for nothing but this.
        coordinator: the broker that coordinates the group.
        group: its name.

    Raises:
        KafkaError: nobody told.
    """
    answer = await client.send(coordinator, DescribeGroupsRequest([group]))
    members = [(each[1], each[2]) for told in answer.groups for each in told[5]]
    if not members:
        members = await _of_the_newer_kind(client, coordinator, group)
    return sorted(
        f"{one_line(name[:LONGEST])} at {one_line(host[:LONGEST])}"
        for name, host in members
        if not name.startswith(OURS)
    )


def some(members: list[str]) -> str:
    """The first few of `strangers`, in words."""
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    return ", ".join(members[:NAMED]) + more


async def _of_the_newer_kind(client: AIOKafkaClient, coordinator: int, group: str) -> list[tuple[str, str]]:
    try:
        answer = await client.send(coordinator, _ConsumerGroupDescribe(group))
    except IncompatibleBrokerVersion:
        return []  # it knows no such groups
    return [
        (member["client_id"], member["client_host"])
        for told in answer.to_object()["groups"]
        for member in told["members"]
    ]


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_ASSIGNMENT = Schema(
    (
        "topic_partitions",
        CompactArray(
            ("topic_id", _Uuid),
            ("topic_name", _TEXT),
            ("partitions", CompactArray(Int32)),
            ("tags", TaggedFields),
        ),
    ),
    ("tags", TaggedFields),
)


class _Response(Response):  # type: ignore[misc]  # as above
    API_KEY = 69
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            CompactArray(
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("group_id", _TEXT),
                ("group_state", _TEXT),
                ("group_epoch", Int32),
                ("assignment_epoch", Int32),
                ("assignor_name", _TEXT),
                (
                    "members",
                    CompactArray(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("rack_id", _TEXT),
                        ("member_epoch", Int32),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("subscribed_topic_names", CompactArray(_TEXT)),
                        ("subscribed_topic_regex", _TEXT),
                        ("assignment", _ASSIGNMENT),
                        ("target_assignment", _ASSIGNMENT),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Struct(RequestStruct):  # type: ignore[misc]  # as above
    FLEXIBLE_VERSION = True
    API_KEY = 69
    API_VERSION = 0
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("group_ids", CompactArray(_TEXT)),
        ("include_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _ConsumerGroupDescribe(Request[_Struct]):  # type: ignore[misc]  # as above
    """The request of KIP-848, which the library lacks."""

    API_KEY = 69

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_Struct]) -> Any:
        return request_struct_class([self._group], False, {})
