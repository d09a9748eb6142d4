"""What the library's consumer knows, and has no public way to tell or to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from mailsender.kafka.client import close_connections, end_tasks

# ruff: noqa: SLF001  this module is there for it

Known = tuple[
    Mapping[TopicPartition, OffsetAndMetadata], Mapping[TopicPartition, int], Mapping[TopicPartition, int]
]
"""Committed offsets, and the logs' first offsets and those behind their ends."""


async def ask(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> Known:
    """What is committed of partitions, and where their logs begin and end.

    Raises:
        KafkaError: the brokers do not tell.
    """
    # The public call tells no notes.
    offsets = await consumer._coordinator.fetch_committed_offsets(list(partitions))
    begins = await consumer.beginning_offsets(list(partitions))
    return offsets, begins, await consumer.end_offsets(list(partitions))


def leader_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    """The broker that leads a partition, -1 where none is known."""
    leader = consumer._client.cluster.leader_for_partition(partition)
    return -1 if leader is None else int(leader)


def position_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """Where a partition is read next, if that is known; the public call waits until it is."""
    subscription = consumer._subscription.subscription
    if subscription is None or subscription.assignment is None:
        return None
    state = subscription.assignment.state_value(partition)
    return int(state.position) if state is not None and state.has_valid_position else None


def ended(consumer: AIOKafkaConsumer) -> BaseException | None:
    """What ended a task of the group's, where it is no error of Kafka's: reading would raise it for ever."""
    coordinator = consumer._coordinator
    error: BaseException | None = coordinator._pending_exception
    task = coordinator._coordination_task
    if error is None and task is not None and task.done() and not task.cancelled():
        error = task.exception()
    return None if error is None or isinstance(error, KafkaError) else error


async def abandon(consumer: AIOKafkaConsumer) -> None:
    """Free a consumer whose broker hangs, without waiting for it."""
    client, fetcher, coordinator = consumer._client, consumer._fetcher, consumer._coordinator
    if coordinator is not None:
        await end_tasks(
            [
                coordinator._coordination_task,
                coordinator._heartbeat_task,
                coordinator._commit_refresh_task,
            ]
        )
    if fetcher is not None:
        await end_tasks([fetcher._fetch_task, *fetcher._pending_tasks])
    await close_connections(client)
