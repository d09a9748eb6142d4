"""Questions that `mailsender check` asks the outside world. None changes anything, each has a deadline.

A probe never raises for what the outside world does: that is what it is there to tell.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

from mailsender.adapters.kafka import KafkaConfig, client_log, client_options, described
from mailsender.adapters.mongo import calling, connect, disconnect
from mailsender.findings import Finding
from mailsender.letter import Result, Verdict
from mailsender.ports import Rejected, Relay, RelayAway, Session, Unavailable

CLOSING: Final = 5.0
"""Seconds that a connection may take to close; what is left then ends with the process."""

OLDEST_MONGODB: Final = (5, 0)
"""The first version with `$dateAdd` and `$dateTrunc`, in which leases and slots are computed."""

SECONDARY, PRIMARY = 2, 1
"""Member states that hold data and acknowledge writes."""


# --- Kafka ---------------------------------------------------------------------------------------

_TOPIC, _BROKER = ConfigResourceType.TOPIC, ConfigResourceType.BROKER


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
    except TimeoutError:
        reason = f"; the client's last word: {said.last}" if said.last else ""
        text = f"no answer within {config.timeout:g} s; see KAFKA_BROKERS, and the firewall{reason}"
        return [_kafka("error", text)]
    except (KafkaError, OSError) as error:
        advice = "see KAFKA_BROKERS, KAFKA_SECURITY_PROTOCOL and the SASL settings"
        return [_kafka("error", f"cannot be reached ({said.last or described(error)}); {advice}")]
    finally:
        await _close_kafka(client)
    brokers = len(metadata["brokers"])
    found = [_kafka("ok", f"{brokers} broker{'s' * (brokers != 1)} in the cluster")]
    for name in _names(wish):
        if name in topics:
            found += _judge_topic(name, topics[name], configs.get(name, {}), wish)
        else:
            found.append(_missing(name, made_when_used=made_when_used))
    return found


async def _close_kafka(client: AIOKafkaAdminClient) -> None:
    try:
        async with asyncio.timeout(CLOSING):
            await client.close()
    except (TimeoutError, KafkaError, OSError):
        return  # the findings stand; the connection ends with the process


async def _makes_topics(client: AIOKafkaAdminClient, brokers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a topic comes into being when it is first used; True also where we may not know."""
    asked = [ConfigResource(_BROKER, str(broker["node_id"])) for broker in brokers[:1]]
    settings = await _configs(client, asked)
    return all(each.get("auto.create.topics.enable") != "false" for each in settings.values())


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


def _missing(name: str, *, made_when_used: bool) -> Finding:
    part = f"topic {name}"
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
    if name == wish.letters and "compact" in settings.get("cleanup.policy", ""):
        text = "is compacted, so letters are lost when a key comes twice; set cleanup.policy=delete"
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


# --- MongoDB -------------------------------------------------------------------------------------

_AUTHENTICATION_FAILED = 18
_BAD_LOGIN = "the user or the password is wrong; see MONGODB_URI, or MONGODB_USERNAME and MONGODB_PASSWORD"
_NO_RIGHTS = "the user, if there is one, has not the rights; see MONGODB_URI, or MONGODB_USERNAME"


async def probe_mongo(uri: str, database: str, collection: str, *, timeout: float) -> list[Finding]:
    """Whether MongoDB answers, lets us in, is new enough and can keep what it acknowledges.

    Args:
        uri: connection string.
        database: where the letters are.
        collection: of letters.
        timeout: seconds for each question.
    """
    try:
        client = connect(uri, timeout=timeout, app_name="mailsender-check")
    except Rejected as error:
        return [_mongo("error", str(error))]
    try:
        return await _ask_mongo(client, database, collection, timeout)
    except Unavailable as error:
        return [_mongo("error", f"{_brief(error)}; see MONGODB_URI, and the firewall")]
    except Rejected as error:
        return [_mongo("error", f"{error}; {_BAD_LOGIN if _is_bad_login(error) else _NO_RIGHTS}")]
    finally:
        await _close_mongo(client)


def _is_bad_login(error: Rejected) -> bool:
    return getattr(error.__cause__, "code", None) == _AUTHENTICATION_FAILED


def _brief(error: Exception) -> str:
    """Without what the driver appends for its own developers: time-outs and the topology as it sees it."""
    return re.split(r" \(configured timeouts|, Timeout: ", str(error), maxsplit=1)[0]


async def _close_mongo(client: Any) -> None:
    try:
        await disconnect(client, CLOSING)
    except (Unavailable, Rejected):
        return  # as with Kafka


async def _ask_mongo(client: Any, database: str, collection: str, timeout: float) -> list[Finding]:
    async with calling(timeout):
        hello = await client.admin.command("hello")
        version = (await client.admin.command("buildInfo"))["version"]
        # What the service will do, too, so that missing rights come out here.
        await client[database][collection].find_one({}, {"_id": 1})
    found = [_mongo("ok", f"version {version}, {_kind(hello)}")]
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_MONGODB:
        oldest = ".".join(map(str, OLDEST_MONGODB))
        found.append(_mongo("error", f"version {version} is too old; {oldest} or later is needed"))
    if hello.get("msg") == "isdbgrid":
        return found
    if "setName" not in hello:
        text = "is a standalone server: what it acknowledged is lost with its disk; use a replica set"
        return [*found, _mongo("warning", text)]
    return [*found, *await _judge_members(client, timeout)]


def _kind(hello: Mapping[str, Any]) -> str:
    if hello.get("msg") == "isdbgrid":
        return "sharded cluster"
    if "setName" in hello:
        hosts = len(hello.get("hosts", ()))
        return f"replica set {hello['setName']} of {hosts} member{'s' * (hosts != 1)}"
    return "standalone"


async def _judge_members(client: Any, timeout: float) -> list[Finding]:
    """Whether enough members are up for a majority to acknowledge writes."""
    try:
        async with calling(timeout):
            status = await client.admin.command("replSetGetStatus")
    except Rejected:
        return []  # the user may not ask, and need not
    up = [each for each in status["members"] if each.get("state") in {PRIMARY, SECONDARY}]
    needed = status.get("writeMajorityCount", 1)
    if len(up) < needed:
        text = f"{len(up)} members are up, {needed} are needed: writes cannot be acknowledged; see the others"
        return [_mongo("error", text)]
    if len(up) == needed < len(status["members"]):
        return [
            _mongo("warning", f"only {len(up)} of {len(status['members'])} members are up: none may fail")
        ]
    return []


def _mongo(level: Any, text: str) -> Finding:
    return Finding(part="mongodb", level=level, text=text)


# --- the relay -----------------------------------------------------------------------------------

_WANTS_LOGIN = 530  # RFC 4954 §6


async def probe_relay(relay: Relay, reverse_path: str, *, timeout: float) -> list[Finding]:
    """Whether a session can be opened (connection, TLS, greeting, AUTH) and the sender is taken.

    No letter is sent.

    Args:
        relay: the relay as the service would use it.
        reverse_path: what the service says in MAIL FROM.
        timeout: seconds for the session, and again for the sender.
    """
    part = f"relay {relay.name}"
    try:
        async with asyncio.timeout(timeout):
            session = await relay.connect()
    except TimeoutError:
        text = f"no session within {timeout:g} s; see SMTP_HOST, SMTP_PORT, SMTP_TLS, and the firewall"
        return [Finding(part=part, level="error", text=text)]
    except RelayAway as error:
        advice = "" if error.permanent else "; the service would go on trying"
        return [Finding(part=part, level="error", text=f"no session: {error}{advice}")]
    try:
        async with asyncio.timeout(timeout):
            finding = _judge_sender(part, reverse_path, await session.try_sender(reverse_path), session)
    except TimeoutError:
        text = f"no answer to MAIL FROM:<{reverse_path}> within {timeout:g} s; see the relay's log"
        finding = Finding(part=part, level="error", text=text)
    await _close_session(session)
    return [finding]


def _judge_sender(part: str, reverse_path: str, said: Result, session: Session) -> Finding:
    if said.verdict is Verdict.ACCEPTED:
        eight = "offers" if session.accepts_8bit() else "does not offer"
        text = f"a session can be opened and {reverse_path} may send; it {eight} 8BITMIME"
        return Finding(part=part, level="ok", text=text)
    words = " ".join(filter(None, (str(said.code or ""), said.enhanced, said.text)))
    if said.code == _WANTS_LOGIN:
        text = f"takes no mail without a login: {words}; set SMTP_USER and SMTP_PASSWORD"
        return Finding(part=part, level="error", text=text)
    if said.verdict is Verdict.REFUSED:
        advice = "no letter would be sent; set SMTP_FROM to an address that it lets send"
        text = f"refuses the sender {reverse_path}: {words}; {advice}"
        return Finding(part=part, level="error", text=text)
    text = f"does not take the sender {reverse_path} now: {words}; the service would go on trying"
    return Finding(part=part, level="warning", text=text)


async def _close_session(session: Session) -> None:
    try:
        async with asyncio.timeout(CLOSING):
            await session.close()
    except TimeoutError:
        session.abort()
