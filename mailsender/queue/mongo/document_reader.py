"""A document of the collection as a letter, whoever wrote it. Pure.

`mailsender.queue.mongo.documents` lists the fields. Nothing here raises for a field that is not as we write
it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson import json_util

from mailsender.model.handling import PLAIN, Handling, Priority
from mailsender.model.json_values import token_of
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    MOST_PAST,
    Answer,
    Letter,
    Origin,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Status,
    Verdict,
)
from mailsender.queue.mongo.documents import ID_IN_MESSAGE_ID, clean, letter_id

MOST = 1_000_000
"""The largest count that is believed: one at the end of MongoDB's integers could not be counted on."""

MAX_RULE = 64
"""Characters of a rule's name that are read: ours have no more."""

MOST_RECIPIENTS = 10_000
"""As many as a letter may have that is published, in what another program wrote: 750,000 in one document kept
the loop for 20 s and took 1.4 GB."""


def letter_of(document: Mapping[str, Any]) -> Letter:
    """The letter of a document, ours or another program's.

    A field of a wrong type does not raise: the letter comes with a `reason`, so that it ends as an `error`.
    """
    try:
        return _letter_of(document)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # Nothing is known to come here; but whatever another program wrote, it must harm no other letter.
        return Letter(
            id=letter_id(document["_id"]),
            addresses=(),
            subject="",
            body="",
            status=Status.ERROR,
            reason=f"its document cannot be read: {type(error).__name__}",
            adopted=True,
        )


def _letter_of(document: Mapping[str, Any]) -> Letter:
    faults: list[str] = []
    answers = (_answer(document), *map(_answer, _documents(document.get("also"))))
    if answers[0].origin is None:
        document = _bounded(document, faults)
    addresses = _addresses(document.get("addresses"), faults)
    subject = _text(document, "subject", faults)
    body = _text(document, "body", faults)
    identity = letter_id(document["_id"])
    try:
        status = Status(str(document.get("status")))
    except ValueError:
        status = Status.ERROR
        faults.append("its status is not known")
    finished, handling = document.get("finished_at"), document.get("handling")
    if handling is not None and not (answers[0].origin and isinstance(handling, Mapping)):
        handling = None  # another program's
    return Letter(
        id=identity,
        addresses=addresses,
        subject=subject,
        body=body,
        answers=answers,
        recipients=_noted(document, _recipients(document, addresses)),
        status=status,
        attempts=_number(document.get("attempts")),
        reason=_string(document.get("reason")) or ("; ".join(faults)),
        relay=_string(document.get("relay")),
        message_id=_string(document.get("message_id")).replace(ID_IN_MESSAGE_ID, identity),
        finished_at=finished if isinstance(finished, datetime) else None,
        digest=_digest(document.get("digest")),
        adopted=answers[0].origin is None,
        route=_string(document.get("route")) or DEFAULT_ROUTE,
        mail=_string(document.get("mail")) if answers[0].origin else "",
        bare=document.get("bare") is True,
        history=_history(document) if "history" in document else (),
        handling=_handling(handling) if handling else PLAIN,
        expires=_moment(handling.get("expires")) if handling else None,
    )


def _handling(value: Mapping[str, Any]) -> Handling:
    tags = value.get("tags")
    try:
        priority = Priority(str(value.get("priority", Priority.NORMAL)))
    except ValueError:
        priority = Priority.NORMAL
    return Handling(
        stream=_string(value.get("stream")),
        tags=tuple(map(_string, tags)) if isinstance(tags, list) else (),
        priority=priority,
        route=_string(value.get("route")),
        retry=_string(value.get("retry")),
        not_before=_moment(value.get("not_before")),
        expire_at=_moment(value.get("expire_at")),
    )


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def origin_of(value: Any) -> Origin | None:
    """An origin as we store it; None for anything else."""
    try:
        return Origin(
            topic=str(value["topic"]),
            partition=int(value["partition"]),
            offset=int(value["offset"]),
            index=int(value["index"]),
            timestamp=int(value["timestamp"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _bounded(document: Mapping[str, Any], faults: list[str]) -> Mapping[str, Any]:
    """Another program's document with no more recipients than a letter may have."""
    lists = {name: document.get(name) for name in ("addresses", "recipients")}
    many = {
        name: value
        for name, value in lists.items()
        if isinstance(value, list) and len(value) > MOST_RECIPIENTS
    }
    if not many:
        return document
    for name, value in many.items():
        faults.append(f"it has {len(value)} {name}, more than {MOST_RECIPIENTS}")
    return {**document, **{name: value[:MOST_RECIPIENTS] for name, value in many.items()}}


def _addresses(value: Any, faults: list[str]) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        faults.append("its addresses are not a list of strings")
        return (
            tuple(clean(each) for each in value if isinstance(each, str)) if isinstance(value, list) else ()
        )
    return tuple(map(clean, value))


def _text(document: Mapping[str, Any], name: str, faults: list[str]) -> str:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        faults.append(f"its {name} is not a string")
    return _string(value)


def _string(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""


def _number(value: Any) -> int:
    """A count as we store it; what is no count is none. One beyond all measure could not be counted on."""
    plain = isinstance(value, int) and not isinstance(value, bool)
    return min(int(value), MOST) if plain and value > 0 else 0


def _digest(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _documents(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _answer(document: Mapping[str, Any]) -> Answer:
    key = document.get("key")
    if isinstance(key, bytes):
        raw: bytes | None = bytes(key)
    elif "origin" in document:
        raw = None
    else:
        text = document.get("kafkakey")
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else None
    return Answer(token=_token(document), key=raw, origin=origin_of(document.get("origin")))


def _token(document: Mapping[str, Any]) -> Any:
    token = document.get("token", "")
    if isinstance(token, str):
        if document.get("tokenjson") is not True:
            return clean(token)
        try:
            return token_of(token)
        except (ValueError, RecursionError):
            return clean(token)
    # Another program's token may be any BSON value: relaxed extended JSON is what a report can hold of it.
    try:
        text = json_util.dumps(token, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
        return json.loads(clean(text), parse_constant=_refuse)
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return ""


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _recipients(document: Mapping[str, Any], addresses: tuple[str, ...]) -> tuple[Recipient, ...]:
    untouched = tuple(Recipient(address=each) for each in addresses)
    relay = _string(document.get("relay"))
    try:
        if "outcome" in document:
            outcome = document["outcome"]
            return tuple([_read_outcome(each, outcome, relay) for each in addresses])
        stored = document.get("recipients")
        if stored and isinstance(stored, list):  # else nobody would ever be sent to, and it would never end
            return tuple([_read_outcome(clean(each["address"]), each, relay) for each in stored])
    except (KeyError, TypeError, ValueError, AttributeError):
        # Another program's field of the same name: nothing happened to the recipients here yet.
        return untouched
    return untouched


def _noted(document: Mapping[str, Any], recipients: tuple[Recipient, ...]) -> tuple[Recipient, ...]:
    """With what was noted of single ones on the way, which no settlement has put together yet."""
    claims = document.get("slices")
    if not isinstance(claims, Mapping):
        return recipients
    found = list(recipients)
    for slices in claims.values():
        for runs in slices.values() if isinstance(slices, Mapping) else ():
            for run in runs if isinstance(runs, list) else ():
                try:
                    _apply(run, found)
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # another program's
    return tuple(found)


def noted_places(slices: Mapping[str, Any]) -> frozenset[int]:
    """The places of recipients whose states were noted under one token."""
    return frozenset(
        [
            place
            for runs in slices.values()
            for start, count, _ in runs
            for place in range(start, start + count)
        ]
    )


def _apply(run: Any, found: list[Recipient]) -> None:
    """Of two states of a recipient that is the later one that ends it, or counts more attempts."""
    start, count, outcome = run
    if _number(start) != start:
        return
    for place in range(start, min(len(found), start + _number(count))):
        before = found[place]
        now = _read_outcome(before.address, outcome)
        if before.open and (not now.open or now.tries > before.tries):
            found[place] = now


def _read_outcome(address: str, value: Mapping[str, Any], relay: str = "") -> Recipient:
    """A recipient's state; `relay` is the letter's."""
    return Recipient(
        address=address,
        result=_read_result(value) if "verdict" in value else None,
        tries=_number(value.get("tries")),
        doubts=_number(value.get("doubts")),
        closed=value.get("closed") is True,
        relay=_string(value["relay"]) if "relay" in value else relay if "verdict" in value else "",
        due=_seconds(value.get("due")),
    )


def _history(document: Mapping[str, Any]) -> tuple[PastAttempt, ...]:
    """What is known of attempts; of another program's field of that name nothing is."""
    found = []
    for each in _documents(document["history"])[-MOST_PAST:]:
        at, seconds = each.get("at"), each.get("seconds")
        try:
            past = PastAttempt(
                at=at if isinstance(at, datetime) else None,
                relay=_string(each.get("relay")),
                result=_read_result(each),
                asked=_number(each.get("asked")),
                accepted=_number(each.get("accepted")),
                seconds=float(seconds) if isinstance(seconds, float) and seconds >= 0.0 else None,
                tls=_string(each.get("tls")),
            )
        except (KeyError, TypeError, ValueError):
            continue
        found.append(past)
    return tuple(found)


def _seconds(value: Any) -> float:
    """A time in epoch seconds as we store it; what is none is none."""
    return value if isinstance(value, float) and math.isfinite(value) and value > 0 else 0.0


def _read_result(value: Mapping[str, Any]) -> Result:
    code, enhanced = value.get("code"), value.get("enhanced")
    return Result(
        verdict=Verdict(value["verdict"]),
        phase=Phase(value["phase"]),
        code=int(code) if isinstance(code, int) and 200 <= code <= 599 else None,
        enhanced=clean(enhanced) if isinstance(enhanced, str) else None,
        text=clean(value.get("text", "")),
        rule=_string(value.get("rule"))[:MAX_RULE],
    )
