"""A letter as a document of the collection; `mailsender.queue.mongo.document_reader` is the way back. Pure.

The original service's fields `_id, addresses, subject, body, token, status, kafkakey` keep their meaning.
Ours stand beside them:

- `key`: the record's key, byte for byte; absent where it had none. `kafkakey` is the same as text.
- `tokenjson`: true where `token` holds JSON text, because the token was not a plain string.
- `origin`: topic, partition, offset, index and timestamp; absent in documents of other programs.
- `digest`: hash of the content, where the letter brought its ID; the content itself tells it of others.
- `mail`: JSON text of its further keys; absent where it has the original's alone. `blobs`: those that its
  attachments name, for as long as it may need them.
- `handling`: what it asks of the service, as `Handling.document` writes it, and, as `expires`, from when on
  it is no longer sent; absent where there is neither.
- `created_at`: when it came in. `route`: the route that it takes.
- `rank`: its place in the order of its route, a time of the route's own (`mailsender.queue.ranks`); false
  when it was deferred, or may not be sent yet, and then `due` says from when on it may be.
- `claim`: the token under which a letter is `processing`; it begins with the ID of the replica that has it.
- `settled_by`: the token under which it was settled last.
- `outcome`: the result that all recipients share, or `recipients`: one by one where they differ. `tries`,
  `doubts`, `closed` and `due` in them as in `Recipient`, absent while there is nothing to say; `relay` where
  it is not the letter's; `rule` where a reply rule decided.
- `slices`: what was noted of single recipients while the letter is on its way, by token and first place:
  lists of a first place, a number and the outcome that so many have in common. A settlement puts all of it
  into `outcome` or `recipients`.
- `history`: as in `Letter`, absent while empty: what was said as in an outcome, `asked` and `accepted`, and
  `at`, `seconds` and `tls` where they are known.
- `attempts`, `relay`, `message_id`, `reason`, `finished_at`: as in `Letter`; absent while empty.
- `outbox`: the entry of the outbox that stood for it when it became final: it is gone once its report is out.
- `also`: further publishers of the same letter.
- `expire_at`: when it is forgotten; absent while it is not final. `body_until`: when its body, texts and
  blobs go, where that comes earlier; `bare`: true once they are gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson import ObjectId, encode, json_util
from bson.errors import BSONError

from mailsender.model.blobs import named_in
from mailsender.model.handling import PLAIN
from mailsender.model.letter import (
    Answer,
    JsonText,
    Letter,
    Origin,
    PastAttempt,
    Recipient,
    Status,
)
from mailsender.model.text import octets

Document = dict[str, Any]

MAX_BYTES = 12 * 1024 * 1024
"""Bytes of the largest document we write; MongoDB's limit is 16 MiB, and outcomes are still to come."""

DEFERRED = False
"""In the place of a rank: the letter has to wait until it is `due`."""

_FRAME = 1024
"""Bytes that a document takes beside its texts, rounded up."""

_KEPT_BYTES = 64 * 1024
"""How much of each field is kept of a letter that cannot be stored."""

KEPT_KEY_BYTES = 1024 * 1024
"""How much of a key is kept of such a letter; the half of a key would be another key."""

_FOREIGN = "~"
"""Marks the ID of a document whose `_id` is not an ObjectId; what follows is extended JSON."""

ID_IN_MESSAGE_ID = "(id)"
"""Stands for the letter's ID in a stored Message-ID, so that letters that end alike are written alike.
It cannot be part of a Message-ID: RFC 5322 §3.6.4 allows no parentheses."""

SHARING: Document = {
    "$filter": {
        "input": {"$cond": [{"$isArray": ["$also"]}, "$also", []]},
        "cond": {"$eq": [{"$type": "$$this"}, "object"]},
    }
}
"""In a pipeline: the publishers in `also`, whatever another program may have written there."""

_ID_DIGITS = 24
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class Unstorable(ValueError):  # noqa: N818  a finding about a letter, not a mistake
    """A letter that MongoDB can never hold; the text says why, for its report."""


def clean(text: str) -> str:
    """`text` with U+FFFD for what is not a character (surrogates, as bytes out of place are decoded to)."""
    try:
        octets(text)
    except UnicodeEncodeError:
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    # Whole, and yet a plain string: what the driver reads of JavaScript is a kind that cannot be hashed.
    return text[:]


# --- IDs -------------------------------------------------------------------------------------------


def stored_id(letter_id: str) -> Any:
    """The `_id` of a letter.

    Raises:
        ValueError: no letter can have such an ID.
    """
    if letter_id.startswith(_FOREIGN):
        try:
            return json_util.loads(letter_id[1:], json_options=json_util.CANONICAL_JSON_OPTIONS)
        except (TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"not an ID: {error}") from error
    return _object_id(letter_id)


@lru_cache(maxsize=16_384)  # about 4 MB: an ID is wanted when its letter comes in, is settled and is reported
def _object_id(letter_id: str) -> ObjectId:
    try:
        octets = bytes.fromhex(letter_id) if len(letter_id) == _ID_DIGITS else b""
    except ValueError:
        octets = b""
    if len(octets) * 2 != _ID_DIGITS:  # spaces are let pass between digits
        raise ValueError("an ID has 24 hex digits")
    return ObjectId(octets)


def nameable(stored: Any) -> bool:
    """Whether a document with this `_id` can be named by what `letter_id` makes of it.

    One that is text of invalid UTF-8 cannot be, nor some values that extended JSON cannot say.
    """
    if isinstance(stored, ObjectId):
        return True
    try:
        return encode({"_id": stored_id(letter_id(stored))}) == encode({"_id": stored})
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError):
        return False


def letter_id(stored: Any) -> str:
    """The ID of the letter whose `_id` is `stored`, which another program may have chosen freely."""
    if isinstance(stored, ObjectId):
        return str(stored)
    return _FOREIGN + json_util.dumps(stored, json_options=json_util.CANONICAL_JSON_OPTIONS)


# --- from a letter ---------------------------------------------------------------------------------


def document_of(letter: Letter, now: datetime) -> tuple[Document, int]:
    """The document of a letter that comes in at `now` by the server's clock, and about its size in bytes.

    Raises:
        Unstorable: MongoDB cannot hold it.
    """
    answer = answer_document(letter.answers[0])
    size = _size_of(letter, answer)
    if size > MAX_BYTES:
        raise Unstorable(f"the letter takes {size} bytes, more than the {MAX_BYTES} that can be stored")
    document: Document = {
        "_id": stored_id(letter.id),
        "addresses": list(letter.addresses),
        "subject": letter.subject,
        "body": letter.body,
        "status": str(letter.status),
        "kafkakey": (letter.answers[0].key or b"").decode("utf-8", "replace"),
        "created_at": now,
        **answer,
    }
    if letter.digest:
        document["digest"] = letter.digest
    if letter.mail:
        document["mail"] = letter.mail
    if letter.handling is not PLAIN:
        document["handling"] = letter.handling.document()
    if not _fresh(letter):
        document |= {name: value for name, value in state_of(letter).items() if value}
    if letter.status.final:
        document["finished_at"] = letter.finished_at or now
    else:
        document |= {"route": letter.route, "rank": now}
        if letter.handling is not PLAIN or letter.expires is not None:
            document |= _times(letter, now)
        if letter.mail and (refs := named_in(letter.mail)):
            document["blobs"] = list(dict.fromkeys(refs))
    return document, size


def _size_of(letter: Letter, answer: Document) -> int:
    """About the bytes of its document. Raises Unstorable."""
    size = _FRAME + len(answer["token"]) * 4 + len(answer.get("key", b"")) * 4
    size += _octets("subject", letter.subject) + _octets("body", letter.body)
    size += _octets("addresses", "".join(letter.addresses)) * 2 + 32 * len(letter.addresses)
    if letter.reason:
        size += _octets("reason", letter.reason)
    if letter.mail:
        size += _octets("further keys", letter.mail)
    if letter.handling is not PLAIN:
        size += _octets("further keys", letter.handling.text)
    return size


def _times(letter: Letter, now: datetime) -> Document:
    """What a letter says of when it may be sent."""
    found: Document = {}
    if letter.expires is not None:
        found["handling"] = {**letter.handling.document(), "expires": letter.expires}
    later = letter.handling.not_before
    if later is not None and later > now:
        found |= {"rank": DEFERRED, "due": later}
    return found


def remains_of(letter: Letter, reason: str) -> Letter:
    """What can be stored of a letter that cannot: an `error` with `reason`, without its body.

    It always fits. A token or a key that is too large is left out, and then the reason says so.
    """
    answer = letter.answers[0]
    token, key = answer.token, answer.key
    try:
        keep = len(answer_document(answer)["token"]) <= _KEPT_BYTES
    except Unstorable:
        keep = False
    if not keep:
        token = ""
        reason += "; its token is left out"
    if key is not None and len(key) > KEPT_KEY_BYTES:
        reason += f"; its key of {len(key)} bytes is left out"
        key = None
    addresses: list[str] = []
    room = _KEPT_BYTES
    for address in letter.addresses:
        room -= len(address) + 16
        if room < 0:
            break
        addresses.append(clean(address))
    return _fault_of(letter, reason).evolve(
        addresses=tuple(addresses),
        subject=clean(letter.subject[:_KEPT_BYTES]),
        answers=(Answer(token=token, key=key, origin=answer.origin),),
    )


def barest_of(letter: Letter, reason: str) -> Letter:
    """The least that stands for a letter: its ID, whence it came and why it is an error."""
    return _fault_of(letter, f"{reason}; nor its addresses, subject, token and key").evolve(
        addresses=(), subject="", answers=(Answer(origin=letter.answers[0].origin),)
    )


def datable(letter: Letter) -> Letter:
    """The same letter; its record has no time where that is one that no document holds."""
    answer = letter.answers[0]
    origin = answer.origin
    if origin is None or _INT64_MIN <= origin.timestamp <= _INT64_MAX:
        return letter
    timeless = Origin(
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        index=origin.index,
        timestamp=-1,
    )
    return letter.evolve(answers=(Answer(token=answer.token, key=answer.key, origin=timeless),))


def _fault_of(letter: Letter, reason: str) -> Letter:
    return letter.evolve(
        status=Status.ERROR,
        body="",
        mail="",
        handling=PLAIN,
        recipients=(),
        attempts=0,
        relay="",
        message_id="",
        reason=clean(reason[:_KEPT_BYTES]),
        digest=letter.content,
    )


def answer_document(answer: Answer) -> Document:
    """The fields of one publisher: `token`, `tokenjson`, `key` and `origin`, the latter three where needed.

    Raises:
        Unstorable: the token is no JSON value.
    """
    document: Document = {"token": answer.token}
    if not isinstance(answer.token, str) or _SURROGATES.search(answer.token):
        # As text it comes back word for word: numbers of any length, keys with dots or dollars, any depth.
        try:
            text = answer.token.text if isinstance(answer.token, JsonText) else json.dumps(answer.token)
            document |= {"token": text, "tokenjson": True}
        except (TypeError, ValueError, RecursionError) as error:
            raise Unstorable(f"the token is not a JSON value that can be stored: {error}") from error
    if answer.key is not None:
        document["key"] = answer.key
    if answer.origin is not None:
        document["origin"] = origin_document(answer.origin)
    return document


def origin_document(origin: Origin) -> Document:
    """An origin, its fields always in the same order, because MongoDB compares them in order."""
    return {
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "index": origin.index,
        "timestamp": origin.timestamp,
    }


def state_of(letter: Letter) -> Document:
    """The fields that settling changes; None and empty values stand for absent fields."""
    shared = shared_state(letter)
    single = not (shared or _untouched(letter))
    one_by_one = [_recipient(each, letter.relay) for each in letter.recipients] if single else None
    return {
        "attempts": letter.attempts,
        "relay": letter.relay,
        "message_id": letter.message_id.replace(letter.id, ID_IN_MESSAGE_ID),
        "reason": letter.reason,
        "finished_at": letter.finished_at,
        "outcome": _outcome(shared, letter.relay) if shared else None,
        "recipients": one_by_one,
        "history": [_past(each) for each in letter.history],
    }


def slice_of(changed: Mapping[int, Recipient]) -> list[list[Any]]:
    """States of some recipients by their places, as `slices` holds them: those that are alike share one."""
    runs: list[list[Any]] = []
    for place in sorted(changed):
        outcome = _outcome(changed[place])
        if runs and runs[-1][0] + runs[-1][1] == place and runs[-1][2] == outcome:
            runs[-1][1] += 1
        else:
            runs.append([place, 1, outcome])
    return runs


def shared_state(letter: Letter) -> Recipient | None:
    """A recipient whose state is that of all, or None where they differ or nothing happened yet."""
    recipients = letter.recipients
    if len(recipients) != len(letter.addresses) or not recipients or _untouched(letter):
        return None
    first = recipients[0]
    result, tries, doubts, closed = first.result, first.tries, first.doubts, first.closed
    relay = first.relay
    for each, address in zip(recipients, letter.addresses, strict=True):
        alike = each.result is result or each.result == result
        if not alike or each.tries != tries or each.address != address:
            return None
        if each.doubts != doubts or each.closed != closed or each.relay != relay or each.due:
            return None
    return first


def likeness(letter: Letter) -> tuple[Any, ...]:
    """Equal for letters whose `state_of` is equal, without the cost of making it."""
    shared = shared_state(letter)
    alike = (shared.result, shared.tries, shared.doubts, shared.closed, shared.relay) if shared else None
    message_id = letter.message_id.replace(letter.id, ID_IN_MESSAGE_ID)
    return (
        letter.status,
        letter.route,
        letter.attempts,
        letter.relay,
        message_id,
        letter.reason,
        letter.finished_at,
        alike or letter.recipients,
        letter.history,
    )


def _fresh(letter: Letter) -> bool:
    """Whether `state_of` has nothing to say about it, as of nearly every letter that comes in."""
    said = letter.attempts or letter.reason or letter.relay or letter.message_id or letter.finished_at
    return not said and _untouched(letter)


def _untouched(letter: Letter) -> bool:
    """Whether its recipients are just its addresses, and nothing has happened to any of them."""
    if not letter.recipients:
        return True
    for each in letter.recipients:
        if each.result is not None or each.tries or each.doubts or each.due:
            return False
    return [each.address for each in letter.recipients] == list(letter.addresses)


def _recipient(recipient: Recipient, relay: str) -> Document:
    return {"address": recipient.address, **_outcome(recipient, relay)}


def _outcome(recipient: Recipient, relay: str = "") -> Document:
    """A recipient's state; its relay is left out where it is the letter's, `relay`, as nearly always."""
    result = recipient.result
    document: Document = {}
    if result is not None:
        document |= {"verdict": result.verdict.value, "phase": result.phase.value, "text": clean(result.text)}
        if result.code is not None:
            document["code"] = result.code
        if result.enhanced is not None:
            document["enhanced"] = clean(result.enhanced)
        if result.rule:
            document["rule"] = result.rule
    if recipient.tries:
        document["tries"] = recipient.tries
    if recipient.doubts:
        document["doubts"] = recipient.doubts
    if recipient.closed:
        document["closed"] = True
    if recipient.due:
        document["due"] = recipient.due
    if result is not None and recipient.relay != relay:
        document["relay"] = clean(recipient.relay)
    return document


def _past(past: PastAttempt) -> Document:
    said = _outcome(Recipient(address="", result=past.result, relay=past.relay))
    document: Document = {**said, "asked": past.asked, "accepted": past.accepted}
    if past.at is not None:
        document["at"] = past.at
    if past.seconds is not None:
        document["seconds"] = past.seconds
    if past.tls:
        document["tls"] = past.tls
    return document


def _octets(name: str, text: str) -> int:
    try:
        return octets(text)
    except UnicodeEncodeError:
        raise Unstorable(
            f"the letter's {name} holds half a surrogate pair, which is not a character"
        ) from None
