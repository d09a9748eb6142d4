"""Questions that `mailsender check` asks the outside world. None changes anything, each has a deadline.

A probe never raises for what the outside world does: that is what it is there to tell.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mailsender.check.findings import Finding
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.queue.mongo.client import calling, connect, disconnect
from mailsender.queue.mongo.rights import RIGHTS, lacking
from mailsender.smtp.port import RelayAway, Session, Transport

CLOSING: Final = 5.0
"""Seconds that a connection may take to close; what is left then ends with the process."""

OLDEST_MONGODB: Final = (5, 0)
"""The first version with `$dateAdd` and `$dateTrunc`, in which leases and slots are computed."""

CLOCKS_APART: Final = 2.0
"""Seconds by which our clock and MongoDB's may differ before it is told."""

SECONDARY, PRIMARY = 2, 1
"""Member states that hold data and acknowledge writes."""

# --- MongoDB -------------------------------------------------------------------------------------


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
    except Forbidden as error:
        return [_mongo("error", str(error))]
    except Unavailable as error:
        return [_mongo("error", f"{error}; see MONGODB_URI, and the firewall")]
    except Rejected as error:
        return [_mongo("error", str(error))]
    finally:
        await _close_mongo(client)


async def _close_mongo(client: Any) -> None:
    try:
        await disconnect(client, CLOSING)
    except (Unavailable, Rejected):
        return  # as with Kafka


async def _ask_mongo(client: Any, database: str, collection: str, timeout: float) -> list[Finding]:
    async with calling(timeout):
        before = time.time()
        hello = await client.admin.command("hello")
        clock = _judge_clock(hello, before, time.time())
        version = (await client.admin.command("buildInfo"))["version"]
    for beside in RIGHTS:
        await _look_into(client, database, collection + beside, timeout)
    found = [_mongo("ok", f"version {version}, {_kind(hello)}")]
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_MONGODB:
        oldest = ".".join(map(str, OLDEST_MONGODB))
        found.append(_mongo("error", f"version {version} is too old; {oldest} or later is needed"))
    found += clock
    found += await _judge_rights(client, database, collection, timeout)
    if hello.get("msg") == "isdbgrid":
        return found
    if "setName" not in hello:
        text = "is a standalone server: what it acknowledged is lost with its disk; use a replica set"
        return [*found, _mongo("warning", text)]
    return [*found, *await _judge_members(client, timeout)]


async def _look_into(client: Any, database: str, collection: str, timeout: float) -> None:
    """Read as the service will, so that missing rights come out here."""
    try:
        async with calling(timeout):
            await client[database][collection].find_one({}, {"_id": 1})
    except Forbidden as error:
        raise Forbidden(f"{error}; it was asked for {database}.{collection}") from error.__cause__


async def _judge_rights(client: Any, database: str, collection: str, timeout: float) -> list[Finding]:
    """Whether the user may do what the service will; without access control there is no user to judge."""
    try:
        async with calling(timeout):
            status = await client.admin.command("connectionStatus", showPrivileges=True)
    except (Unavailable, Rejected):
        return []  # a hosted MongoDB may not tell, and need not
    whose = status["authInfo"]
    privileges = whose.get("authenticatedUserPrivileges")
    if not whose["authenticatedUsers"] or privileges is None:
        return []
    rights = lacking(privileges, database, collection)
    if not rights:
        return []
    text = f"the user lacks: {rights}; grant it, or the role readWrite on {database}"
    return [_mongo("error", text)]


def _judge_clock(hello: Mapping[str, Any], before: float, after: float) -> list[Finding]:
    """Whether MongoDB's clock, read between `before` and `after` on ours, agrees with it."""
    told = hello.get("localTime")
    if not isinstance(told, datetime):
        return []
    theirs = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    if before - CLOCKS_APART <= theirs <= after + CLOCKS_APART:
        return []
    way = "behind" if theirs > after else "ahead of"
    text = (
        f"this machine's clock is {abs(theirs - after):.0f} s {way} MongoDB's, by which the service goes;"
        " see that NTP runs on both"
    )
    return [_mongo("warning", text)]


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
    except (Unavailable, Rejected):
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
_UNKNOWN_PARAMETER = 504  # RFC 5321 §4.2.2; of RCPT it can only mean what was said in EHLO
_GREETING = re.compile(r"\b(?:helo|ehlo)\b", re.IGNORECASE)


async def probe_relay(
    relay: Transport, reverse_path: str, *, recipient: str = "", timeout: float
) -> list[Finding]:
    """Whether a session can be opened (connection, TLS, greeting, AUTH) and the sender is taken.

    No letter is sent.

    Args:
        relay: the relay as the service would use it.
        reverse_path: what the service says in MAIL FROM.
        recipient: who is asked for in RCPT TO, if anybody.
        timeout: seconds for the session, and again for the sender.
    """
    part = f"relay {relay.address}"
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
            said = await session.try_sender(reverse_path, recipient)
            if said.phase is Phase.RCPT:
                finding = _judge_recipient(part, reverse_path, recipient, said)
            else:
                finding = _judge_sender(part, reverse_path, said, session)
    except TimeoutError:
        text = f"no answer to MAIL FROM:<{reverse_path}> within {timeout:g} s; see the relay's log"
        finding = Finding(part=part, level="error", text=text)
    await _close_session(session)
    return [finding]


def _judge_sender(part: str, reverse_path: str, said: Result, session: Session) -> Finding:
    if said.verdict is Verdict.ACCEPTED:
        eight = "offers" if session.supports_8bit else "does not offer"
        text = f"a session can be opened and {reverse_path} may send; it {eight} 8BITMIME"
        return Finding(part=part, level="ok", text=text)
    words = _words(said)
    if said.code == _WANTS_LOGIN:
        text = f"takes no mail without a login: {words}; set SMTP_USER and SMTP_PASSWORD"
        return Finding(part=part, level="error", text=text)
    if said.verdict is Verdict.REFUSED:
        advice = "no letter would be sent; set SMTP_FROM to an address that it lets send"
        text = f"refuses the sender {reverse_path}: {words}; {advice}"
        return Finding(part=part, level="error", text=text)
    text = f"does not take the sender {reverse_path} now: {words}; the service would go on trying"
    return Finding(part=part, level="warning", text=text)


def _judge_recipient(part: str, reverse_path: str, recipient: str, said: Result) -> Finding:
    if said.verdict is Verdict.ACCEPTED:
        text = f"a session can be opened, and {reverse_path} may send mail for {recipient}; none was sent"
        return Finding(part=part, level="ok", text=text)
    words = _words(said)
    if said.code == _UNKNOWN_PARAMETER or _GREETING.search(said.text):
        text = f"finds fault with our name in EHLO: {words}; set SMTP_HELO_NAME to this machine's whole name"
        return Finding(part=part, level="error", text=text)
    if said.verdict is Verdict.REFUSED:
        advice = "its words say whether that is about the recipient, the sender (SMTP_FROM) or this account"
        text = f"takes no mail from {reverse_path} for {recipient}: {words}; {advice}"
        return Finding(part=part, level="error", text=text)
    text = f"takes no mail for {recipient} now: {words}; the service would go on trying"
    return Finding(part=part, level="warning", text=text)


def _words(said: Result) -> str:
    return " ".join(filter(None, (str(said.code or ""), said.enhanced, said.text)))


async def _close_session(session: Session) -> None:
    try:
        async with asyncio.timeout(CLOSING):
            await session.close()
    except TimeoutError:
        session.abort()
