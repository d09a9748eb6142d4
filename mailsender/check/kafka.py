"""What `mailsender check` asks a Kafka cluster, by the rules of `mailsender.check.probe`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.metadata import MetadataRequest

from mailsender.check.findings import Finding
from mailsender.check.probe import CLOSING
from mailsender.kafka.client import KafkaConfig, client_log, client_options, described
from mailsender.kafka.group import some, strangers

_TOPIC, _BROKER = ConfigResourceType.TOPIC, ConfigResourceType.BROKER
_MAKES: Final = "auto.create.topics.enable"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaWish:
    """What the service needs of a cluster: its topics, and records of up to `record_bytes`."""

    letters: str
    reports: str
    dead_letters: str
    record_bytes: int


async def probe_kafka(config: KafkaConfig, wish: KafkaWish) -> list[Finding]:
    """Whether brokers answer, the topics exist and suit; takes at most `config.timeout` seconds.

    Args:
        config: how the brokers are reached.
        wish: what is needed.
    """
    try:
        options = client_options(config)
    except OSError as error:
        return [_kafka("error", f"a TLS file cannot be read ({error}); see the KAFKA_TLS_… settings")]
    said = client_log()
    client = AIOKafkaAdminClient(**options)
    try:
        async with asyncio.timeout(config.timeout):
            await client.start()
            metadata = await client.describe_cluster()
            topics = {topic["topic"]: topic for topic in await client.describe_topics()}
            there = [ConfigResource(_TOPIC, name) for name in _names(wish) if name in topics]
            configs = await _configs(client, there)
            made_when_used = await _makes_topics(client, metadata["brokers"])
            barred = await _barred(client, [name for name in _names(wish) if name not in topics])
            forbidden = await _may_not_join(client, config.group, metadata["brokers"])
            others = [] if forbidden else await _others(client, config.group)
    except TimeoutError:
        reason = f"; the client's last word: {said.last}" if said.last else ""
        text = f"no answer within {config.timeout:g} s; see KAFKA_BROKERS, and the firewall{reason}"
        return [_kafka("error", text)]
    except (KafkaError, OSError) as error:
        reason = said.last or described(error)
        return [_kafka("error", f"cannot be reached ({reason}); {_advice(reason)}")]
    finally:
        await _close_kafka(client)
    brokers = len(metadata["brokers"])
    found = [_kafka("ok", f"{brokers} broker{'s' * (brokers != 1)} in the cluster")]
    for name in _names(wish):
        if name in topics:
            found += _judge_topic(name, topics[name], configs.get(name, {}), wish)
        elif name in barred:
            found.append(_no_right(f"topic {name}", "READ and WRITE" if name == wish.letters else "WRITE"))
        else:
            found.append(_missing(name, made_when_used=made_when_used))
    if forbidden:
        found.append(_no_right(f"group {config.group}", "READ"))
    if others:
        text = (
            f"another program is a member of it: {some(others)}. What it reads is sent by nobody, or it keeps"
            " us out; give it a group of its own, or set KAFKA_GROUPID"
        )
        found.append(Finding(part=f"group {config.group}", level="warning", text=text))
    return found


_WRONG_DOOR = "it may want another KAFKA_SECURITY_PROTOCOL, or a certificate of ours (KAFKA_TLS_CERT_FILE)"
_ADVICE: Final = (
    ("sasl", "see KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
    ("certificate_verify", "see KAFKA_TLS_CA_FILE, and the names in the brokers' certificates"),
    ("closed", _WRONG_DOOR),
    ("reset", _WRONG_DOOR),
    ("timeout", "it may want another KAFKA_SECURITY_PROTOCOL, or a firewall stands between"),
    ("ssl", "see KAFKA_SECURITY_PROTOCOL and the KAFKA_TLS_… settings"),
)
"""What an error's text holds, in lower case, and what an operator may look at; the first one counts."""


def _advice(reason: str) -> str:
    """Where the fault may lie. A broker that is spoken to in the wrong way gives no reason, it hangs up."""
    for sign, advice in _ADVICE:
        if sign in reason.lower():
            return advice
    return "see KAFKA_BROKERS, KAFKA_SECURITY_PROTOCOL, and the firewall"


async def _close_kafka(client: AIOKafkaAdminClient) -> None:
    try:
        async with asyncio.timeout(CLOSING):
            await client.close()
    except (TimeoutError, KafkaError, OSError):
        return  # the findings stand; the connection ends with the process


async def _makes_topics(client: AIOKafkaAdminClient, brokers: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether a topic comes into being when it is first used; None where we may not know."""
    asked = [ConfigResource(_BROKER, str(broker["node_id"])) for broker in brokers[:1]]
    settings = await _configs(client, asked)
    told = [each[_MAKES] for each in settings.values() if _MAKES in each]
    return told[0] != "false" if told else None


async def _barred(client: AIOKafkaAdminClient, unseen: Sequence[str]) -> frozenset[str]:
    """Which of the topics that the cluster did not show us are there, or may be, and not for us."""
    if not unseen:
        return frozenset()
    asked = MetadataRequest(list(unseen), allow_auto_topic_creation=False)
    # The public call would make the topics that it asks for.
    answer = await client._send_request(asked)  # noqa: SLF001
    refused = TopicAuthorizationFailedError.errno
    return frozenset(
        topic["topic"] for topic in answer.to_object()["topics"] if topic["error_code"] == refused
    )


async def _may_not_join(
    client: AIOKafkaAdminClient, group: str, brokers: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether the cluster keeps us from a consumer group. Every broker knows, not its coordinator alone."""
    if not brokers:
        return False
    try:
        [answer] = await client.describe_consumer_groups([group], group_coordinator_id=brokers[0]["node_id"])
    except IncompatibleBrokerVersion:
        return False  # it cannot be asked
    return any(each[0] == GroupAuthorizationFailedError.errno for each in answer.groups)


async def _others(client: AIOKafkaAdminClient, group: str) -> list[str]:
    """Members of the group that are none of ours."""
    try:
        coordinator = await client.find_coordinator(group)
        return await strangers(client._client, coordinator, group)  # noqa: SLF001  there is no public way
    except (KafkaError, OSError):
        return []  # of a new cluster's groups nobody knows yet; all else shows elsewhere


async def _configs(client: AIOKafkaAdminClient, asked: Sequence[ConfigResource]) -> dict[str, dict[str, str]]:
    """Settings of what we may see, by its name; a cluster may not tell them, which is no fault."""
    if not asked:
        return {}
    found: dict[str, dict[str, str]] = {}
    try:
        responses = await client.describe_configs(list(asked))
    except IncompatibleBrokerVersion:
        return {}
    for response in responses:
        for code, _message, _type, name, entries in response.resources:
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _names(wish: KafkaWish) -> tuple[str, ...]:
    return wish.letters, wish.reports, wish.dead_letters


def _no_right(part: str, operations: str) -> Finding:
    text = f"KAFKA_SASL_USERNAME, or the certificate's name, has no right to it; allow {operations}"
    return Finding(part=part, level="error", text=text)


def _missing(name: str, *, made_when_used: bool | None) -> Finding:
    part = f"topic {name}"
    if made_when_used is None:
        text = "does not exist, and whether the brokers make topics by themselves cannot be seen"
        text += " (it may be that DESCRIBE_CONFIGS on the cluster is not allowed); create it"
        return Finding(part=part, level="warning", text=text)
    if made_when_used:
        text = "does not exist; create it, or the brokers do so at its first use, by their own defaults"
        return Finding(part=part, level="warning", text=text)
    text = "does not exist, and the brokers make no topics by themselves; create it"
    return Finding(part=part, level="error", text=text)


def _judge_topic(
    name: str, topic: Mapping[str, Any], settings: Mapping[str, str], wish: KafkaWish
) -> list[Finding]:
    part = f"topic {name}"
    count = len(topic["partitions"])
    found = [Finding(part=part, level="ok", text=f"{count} partition{'s' * (count != 1)}")]
    if not settings:
        text = "whether it is compacted, and how large its records may be, cannot be seen;"
        text += " it may be that DESCRIBE_CONFIGS is not allowed"
        found.append(Finding(part=part, level="warning", text=text))
    if name == wish.letters and "compact" in settings.get("cleanup.policy", ""):
        text = "is compacted, so letters are lost when a key comes twice; set cleanup.policy=delete"
        found.append(Finding(part=part, level="warning", text=text))
    elif "compact" in settings.get("cleanup.policy", ""):
        text = "is compacted, so it refuses records without a key (kept in MongoDB instead) and keeps"
        text += " only the last record of each key; set cleanup.policy=delete"
        found.append(Finding(part=part, level="warning", text=text))
    limit = settings.get("max.message.bytes", "")
    if limit.isdigit() and int(limit) < wish.record_bytes:
        text = f"takes records of {limit} bytes only; set KAFKA_MAX_REQUEST_SIZE to that or less"
        found.append(Finding(part=part, level="warning", text=text))
    leaderless = [each["partition"] for each in topic["partitions"] if each["leader"] < 0]
    if leaderless:
        text = f"partitions {', '.join(map(str, leaderless))} have no leader; see the brokers"
        found.append(Finding(part=part, level="error", text=text))
    return found


def _kafka(level: Any, text: str) -> Finding:
    return Finding(part="kafka", level=level, text=text)
