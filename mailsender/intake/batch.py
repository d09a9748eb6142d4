"""The in-topic: the bytes of a record -> its elements -> letters.

A value that is no JSON array of objects is not a batch, as a whole. An element that is no good letter
becomes a letter with status `error` and a reason, and its neighbours never notice.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from mailsender.intake.fast_batch import plain_elements, plain_letter
from mailsender.intake.handling import KEYS as HANDLING
from mailsender.intake.handling import handling_of
from mailsender.intake.idempotency import id_of_key, key_fault
from mailsender.intake.schema import FIELDS, NO_ID, LetterIn, Limits, is_id, token_fault
from mailsender.intake.spelling import as_documented
from mailsender.message.attachments import Keep, by_ref
from mailsender.message.canonical import canonical
from mailsender.message.mail import KEYS, Mail, read
from mailsender.message.values import BadKey, kind, says
from mailsender.model.address import BadAddress, parse_address
from mailsender.model.blobs import ref_of
from mailsender.model.handling import DENIED, PLAIN, Handling
from mailsender.model.json_values import MAX_TOKEN_DEPTH, depth_within, few_values, keep_numbers
from mailsender.model.letter import Answer, JsonText, Letter, Origin, Recipient, Status, content_digest
from mailsender.model.text import PIECE, cleaned, octets

_TEXT = re.compile(rb'"[^"]*"')
_SIGN = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\Z)|\[+|\{+|\]+|\}+', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

DEEP = 2 * MAX_TOKEN_DEPTH
"""Levels of a batch below which nothing is read that could be a part of a good letter."""

MOST_SIGNS = 100_000
"""Runs of brackets, and texts, that are looked at one by one: some 50 ms, in which nothing else goes on."""

# What some producers write instead of JSON, by its first bytes.
_FORMS = {
    b"\x1f\x8b": "compressed by gzip; only what a Kafka client compresses by itself is undone",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; only what a Kafka client compresses by itself is undone",
    b"\xff\xfe": "UTF-16; JSON is UTF-8",
    b"\xfe\xff": "UTF-16; JSON is UTF-8",
}
_MOST_SCHEMAS = 2**28  # above it is the [ of UTF-16

_BESIDE = {"Name": "Names", "Variables": "VariablesOf", "ListUnsubscribe": "UnsubscribeOf"}
_OF_AN_ADDRESS = frozenset({"Address", *_BESIDE})
"""What an object of `Addresses` holds, and under which keys `mailsender.message.mail` reads it."""

MAX_FAULTS = 5
"""Faults that a letter's reason names; a letter of a thousand bad addresses needs no longer sentence."""


class NotABatch(Exception):  # noqa: N818  an answer about the record, not a mistake of the program
    """The value of a record is no JSON array of objects; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one element of a batch, and in which field of it (empty: in no one field)."""

    index: int
    field: str
    text: str


def decode(value: bytes | None, limits: Limits | None = None) -> list[dict[str, Any]]:
    """The elements of a batch, their tokens in a form in which they come back as they were written.

    Raises:
        NotABatch: `value` is no array of objects in strict JSON (RFC 8259: UTF-8, no NaN or Infinity), or
            holds more letters, or values, than `limits` allow.
    """
    if value is None:
        raise NotABatch("the record has no value")
    value = value.removeprefix(BOM_UTF8)  # RFC 8259 §8.1: a reader may pass over it
    limits = limits or Limits()
    _check_values(value, limits)
    try:
        return _elements(value, limits)
    except RecursionError:
        return _elements(_shallow(value), limits)


def decode_letter(value: bytes, limits: Limits | None = None) -> dict[str, Any]:
    """An element that comes alone, read as `decode` reads those of a batch.

    Raises:
        NotABatch: `value` is no object in strict JSON, or holds more values than `limits` allow.
    """
    value = value.removeprefix(BOM_UTF8)
    _check_values(value, limits or Limits())
    try:
        return _element(value)
    except RecursionError:
        return _element(_shallow(value))


def _element(value: bytes) -> dict[str, Any]:
    element = _parse(value)
    if not isinstance(element, dict):
        raise NotABatch(f"the value is {kind(element)}, not a letter, which is an object")
    keep_numbers(b"[%b]" % value, [element])
    return element


def _elements(value: bytes, limits: Limits) -> list[dict[str, Any]]:
    elements = _parse(value)
    if not isinstance(elements, list):
        raise NotABatch(f"the value is {kind(elements)}, not an array of letters")
    if len(elements) > limits.letters:
        raise NotABatch(f"it holds {len(elements)} letters; {limits.letters} are allowed")
    for index, element in enumerate(elements):
        if not isinstance(element, dict):
            raise NotABatch(f"element {index} is {kind(element)}, not an object")
    keep_numbers(value, elements)
    return elements


def _check_values(value: bytes, limits: Limits) -> None:
    """Refuse what would take more memory and time than a batch may, before it is taken apart.

    A value in two bytes takes some sixty in memory, and while it is made nothing else goes on.
    """
    if len(value) <= limits.values or not _more_marks(value, limits.values):
        return
    # Those within texts do not count: what is escaped goes first, then what stands between quotes.
    bare = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = bare.count(b'"') // 2
    if texts > limits.values or _more_marks(_TEXT.sub(b"", bare), limits.values):
        raise NotABatch(f"it holds more than {limits.values} values; {limits.letters} letters need no more")


def _more_marks(value: bytes, most: int) -> bool:
    """Whether there may be more than `most` values: each but the first follows one of three signs.

    To count the signs takes 1.2 ns an octet, to take them out 0.2, in pieces that stay in the cache.
    """
    marks = 0
    for start in range(0, len(value), PIECE):
        piece = value[start : start + PIECE]
        rest = piece.replace(b",", b"").replace(b"[", b"").replace(b"{", b"")
        marks += len(piece) - len(rest)
        if marks > most:
            return True
    return False


def _parse(value: bytes) -> Any:
    try:
        return from_json(value, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        pass  # the stdlib decides: it reads lone surrogates, which are legal JSON, and it names the place
    _check_form(value)
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotABatch(f"the value is not UTF-8 at byte {error.start}") from error
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise NotABatch(f"the value is not JSON: {error}") from error


def _integer(text: str) -> int | float:
    """An integer, or, where it has more digits than Python takes, what a letter refuses by its field."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _shallow(value: bytes) -> bytes:
    """`value` without what lies deeper than `DEEP`: one letter of that kind must not condemn its neighbours.

    Python's reader ends at some 950 levels, with nothing of the batch.

    Raises:
        NotABatch: it would take too long to find that letter among the others.
    """
    kept, begin, depth = [], 0, 0
    for number, found in enumerate(_SIGN.finditer(value)):
        if number == MOST_SIGNS:
            raise NotABatch(f"it nests too deep, and holds more than {MOST_SIGNS} brackets and texts")
        run = found[0]
        after = depth + _STEPS.get(run[0], 0) * len(run)
        if depth < DEEP <= after:
            kept.append(value[begin : found.start() + DEEP - 1 - depth])
        elif after < DEEP <= depth:
            kept.append(b"0")
            begin = found.start() + depth - DEEP + 1
        depth = after
    if depth >= DEEP:
        raise NotABatch("the value nests too deep, and does not end")
    return b"".join([*kept, value[begin:]])


def _check_form(value: bytes) -> None:
    """Say what a value is that its first bytes tell to be something else than JSON."""
    for beginning, form in _FORMS.items():
        if value.startswith(beginning):
            raise NotABatch(f"the value is not JSON: it is {form}")
    schema = int.from_bytes(value[1:5], "big")
    if value.startswith(b"\0") and len(value) > 5 and 0 < schema < _MOST_SCHEMAS:
        raise NotABatch(
            f"the value is not JSON: it begins with a schema registry's header (schema {schema}); its"
            " producer needs a serializer that writes plain JSON"
        )


def _refuse_constant(name: str) -> Any:
    raise NotABatch(f"the value is not JSON: {name} is none")


def read_batch(
    value: bytes | None,
    key: bytes | None,
    limits: Limits,
    *,
    origin: Callable[[int], Origin],
    now: datetime,
    keep: Keep = ref_of,
) -> Iterator[Letter]:
    """The letters of a record, one by one, as `decode` and `read_letter` make them.

    `origin` tells where the element of an index came from; `keep` gets the contents of attachments.

    Raises:
        NotABatch: at once, not while the letters are read.
    """
    if value:
        _check_values(value, limits)
    plain = plain_elements(value) if value else None
    if plain is not None and len(plain) > limits.letters:
        raise NotABatch(f"it holds {len(plain)} letters; {limits.letters} are allowed")
    elements = decode(value, limits) if plain is None else plain
    if key and len(key) * len(elements) > limits.keys:
        raise NotABatch(
            f"its key of {len(key)} bytes would stand in each of its {len(elements)} letters; {limits.keys}"
            " bytes are allowed in all of them together"
        )

    def letters() -> Iterator[Letter]:
        for index, element in enumerate(elements):
            where = origin(index)
            letter = plain_letter(element, where, key, limits) if plain is not None else None
            yield letter or read_letter(element, where, key, limits, now=now, keep=keep)

    return letters()


def read_letter(
    element: Mapping[str, Any],
    origin: Origin,
    key: bytes | None,
    limits: Limits,
    *,
    now: datetime,
    keep: Keep = ref_of,
) -> Letter:
    """The letter that an element is: `awaiting`, or final as `error` with a reason a person understands.

    An `error` holds what can be stored of the element: strings without lone surrogates, empty values in
    place of those of a wrong type or size. Its ID is its own where that is valid, else computed from
    `origin`. It is finished at `now`. `keep` gets the contents of its attachments, which it then names.
    """
    fields = _canonical(element)
    try:
        mail, handling, good, recipients = _judged(fields, limits, keep)
    except _BadLetter as error:
        bad = _bad_letter(fields, origin, key, limits)
        return bad.evolve(reason=cleaned(_reason(error.complaints)), finished_at=now)
    return _good_letter(good, mail, handling, recipients, origin=origin, key=key)


def _judged(
    fields: dict[str, Any], limits: Limits, keep: Keep = ref_of
) -> tuple[str, Handling, LetterIn, tuple[Recipient, ...]]:
    """What the further keys say of the message and ask of the service, the others, and the recipients.

    That is of an element whose `fields` are all good.

    Raises:
        _BadLetter: they are not.
    """
    mail, complaints, spread = "", [], True
    try:
        mail = _mail(fields, limits, keep)
    except BadKey as error:
        complaints = [(each.key, each.text) for each in (error, *error.further)]
        spread = _are_all(fields)
    handling = PLAIN
    try:
        handling = handling_of(fields)
    except BadKey as error:
        complaints += [(each.key, each.text) for each in (error, *error.further)]
    try:
        good = LetterIn.model_validate(fields, context=limits)
        recipients = _recipients(good.Addresses)
    except ValidationError as error:
        others = _complaints(error)
    except _BadLetter as error:
        others = error.complaints
    else:
        if not complaints:
            return mail, handling, good, recipients
        others = []
    raise _BadLetter(complaints + [each for each in others if spread or not each[0].startswith("Addresses")])


def _are_all(fields: Mapping[str, Any]) -> bool:
    """Whether `Addresses` are all that there would be if the further keys were right, too."""
    addresses = fields["Addresses"]
    if not addresses:
        return not any(says(key, fields.get(key)) for key in ("To", "Cc"))
    return not (isinstance(addresses, list) and any(isinstance(each, dict) for each in addresses))


def _mail(fields: dict[str, Any], limits: Limits, keep: Keep = ref_of) -> str:
    """The further keys of an element as JSON, empty where it has none; `fields` gets all its addresses.

    Raises:
        BadKey: one holds something else than it may; so do those that are `further`.
    """
    as_documented(fields)
    published = fields["Addresses"]
    _spread(fields)
    wrong = []
    if says("Template", fields.get("Template")) and fields.get("Body"):
        wrong.append(BadKey("Body", "comes from the template; leave it out, or Template"))
    given = {name: fields[name] for name in KEYS if says(name, fields.get(name))}
    if not given:
        return ""
    if "Attachments" in given:
        attached, one, all_ = given["Attachments"], limits.attachment, limits.attachments
        try:
            given["Attachments"] = by_ref(attached, keep, one=one, all_=all_)
        except BadKey as error:
            wrong.append(error)
            del given["Attachments"]
    try:
        mail = read(given)
    except BadKey as error:
        wrong += [_placed(each, published) for each in (error, *error.further)]
    else:
        wrong += _not_allowed(mail, limits)
    if wrong:
        raise BadKey.of(wrong)
    blind = [] if fields["Addresses"] is None else fields["Addresses"]
    if mail.shown and isinstance(blind, list):
        # Behind the others, whose places are told where one of them is wrong; these are good ones.
        fields["Addresses"] = [*blind, *mail.shown]
    written = canonical(given, mail)
    return json.dumps(written, ensure_ascii=False, separators=(",", ":"), sort_keys=True) if written else ""


def _not_allowed(mail: Mail, limits: Limits) -> Iterator[BadKey]:
    """What the settings forbid."""
    for name, text in (("TextBody", mail.text), ("Calendar", mail.calendar and mail.calendar.text)):
        if text and (size := octets(text)) > limits.body:
            yield BadKey(name, f"has {size} bytes; {limits.body} are allowed")
    for name, address in mail.senders:
        if not limits.senders.allow(address):
            yield BadKey(name, "is not among those in whose name letters are sent: see SMTP_FROM_ALLOWED")


def _spread(fields: dict[str, Any]) -> None:
    """Put the addresses of objects into their places, and what stands beside them apart.

    Raises:
        BadKey: an object is none of an address and what may stand beside it.
    """
    addresses = fields["Addresses"]
    if not isinstance(addresses, list) or not any(isinstance(each, dict) for each in addresses):
        return
    beside: dict[str, dict[str, Any]] = {key: {} for key in _BESIDE}
    plain: list[Any] = []
    for place, each in enumerate(addresses):
        if isinstance(each, dict):
            if not each.keys() <= _OF_AN_ADDRESS or not isinstance(each.get("Address"), str):
                words = ", ".join([f'"{key}": …' for key in ("Address", *_BESIDE)])
                raise BadKey(f"Addresses[{place}]", f"must be a string, or {{{words}}}")
            for key, found in beside.items():
                if says(key, each.get(key)):
                    found.setdefault(each["Address"], each[key])
            plain.append(each["Address"])
        else:
            plain.append(each)
    if fields.get("Personal") is True:
        _check_repeated(addresses, plain)
    fields["Addresses"] = plain
    fields |= {name: beside[key] for key, name in _BESIDE.items() if beside[key]}


def _check_repeated(published: Sequence[Any], plain: Sequence[Any]) -> None:
    """Refuse a mailbox that stands twice with two things beside it: which message would it get?

    `plain` are the addresses of `published`; what is none of them is told elsewhere.

    Raises:
        BadKey: there is such a one; it names both places.
    """
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for place, (each, text) in enumerate(zip(published, plain, strict=True)):
        try:
            wire = parse_address(text).wire if isinstance(text, str) else ""
        except BadAddress:
            continue
        beside = each if isinstance(each, dict) else {}
        before, kept = first.setdefault(wire, (place, beside))
        for key in _BESIDE if wire and before != place else ():
            if _differ(key, kept.get(key), beside.get(key)):
                raise BadKey(
                    f"Addresses[{place}]",
                    f"is the recipient of Addresses[{before}] again, with another {key}; a recipient of a"
                    " personal letter gets one message",
                )


def _differ(key: str, one: Any, other: Any) -> bool:
    """Whether two values mean two things to a template, to which 1, 1.0 and true are three."""
    if not says(key, one) or not says(key, other):
        return says(key, one) or says(key, other)
    try:
        return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)
    except (RecursionError, ValueError):  # too deep for a variable
        return True


def _placed(error: BadKey, published: object) -> BadKey:
    """The same error; where it is about what stands beside an address, it says beside which."""
    if error.beside is None or not isinstance(published, list):
        return error
    where = error.key.split(".")
    inner = "Name" if where[0] == "Names" else where[1]
    for place, each in enumerate(published):
        if isinstance(each, dict) and each["Address"] == error.beside and says(inner, each.get(inner)):
            return BadKey(f"Addresses[{place}].{inner}", error.text)
    return error


def _good_letter(
    good: LetterIn,
    mail: str,
    handling: Handling,
    recipients: tuple[Recipient, ...],
    *,
    origin: Origin,
    key: bytes | None,
) -> Letter:
    own = good.ID or (id_of_key(good.IdempotencyKey) if good.IdempotencyKey else "")
    content = (good.Addresses, good.Subject, good.Body, mail, handling.text)
    return Letter(
        id=own or origin.letter_id(),
        addresses=good.Addresses,
        subject=good.Subject,
        body=good.Body,
        answers=(Answer(token=good.Token, key=key, origin=origin),),
        recipients=recipients,
        # Whoever has the same computed ID came from the same place: nobody will ask for its content. But what
        # a template makes of it may be other words tomorrow, and it is the same letter all the same.
        digest=content_digest(*content) if own or good.Template else b"",
        mail=mail,
        handling=handling,
    )


def faults(
    elements: Sequence[Mapping[str, Any]],
    limits: Limits | None = None,
    denies: Callable[[str], bool] | None = None,
) -> list[Fault]:
    """All that `read_letter` would refuse in a batch, in order; empty when every letter is good.

    So is a `Route` that a letter may not name: `denies` says of which that is so.
    """
    found = []
    for index, element in enumerate(elements):
        complaints = _complaints_of(element, limits or Limits())
        if denies is not None and _denied(element, denies) and all(key != "Route" for key, _ in complaints):
            complaints.append(("Route", DENIED))
        found += [Fault(index=index, field=field, text=text) for field, text in complaints]
    return found


def _denied(element: Mapping[str, Any], denies: Callable[[str], bool]) -> bool:
    route = _canonical(element).get("Route")
    return isinstance(route, str) and denies(route)


def letter_id(element: Mapping[str, Any]) -> str:
    """The ID that an element brings, or that its key makes, in lower case; empty for none or a bad one."""
    return _own_id(_canonical(element))


def identified(element: Mapping[str, Any], new: Callable[[], str]) -> Mapping[str, Any]:
    """The element with an `ID`: the one it brings, else that of its key, else a `new` one."""
    fields = _canonical(element)
    if _written_id(fields):
        return element
    return with_id(element, _own_id(fields) or new())


def with_id(element: Mapping[str, Any], new: str) -> dict[str, Any]:
    """The element with `new` as its only `ID`, whatever the case of the key it was under."""
    others = {key: value for key, value in element.items() if key.casefold() != "id"}
    return {"ID": new, **others}


class _BadLetter(Exception):  # noqa: N818  carries complaints from one function to its caller
    def __init__(self, complaints: list[tuple[str, str]]) -> None:
        super().__init__("a bad letter")
        self.complaints = complaints


def _canonical(element: Mapping[str, Any]) -> dict[str, Any]:
    """The known fields under their documented names; of two that differ only in case the last wins."""
    fields: dict[str, Any] = {"Addresses": None}
    for key, value in element.items():
        name = FIELDS.get(key) or FIELDS.get(key.casefold())
        if name is not None:
            fields[name] = value
    return fields


def _recipients(addresses: Sequence[str]) -> tuple[Recipient, ...]:
    """Each mailbox once, in the order and spelling of its first address."""
    seen: dict[str, Recipient] = {}
    complaints = []
    for index, text in enumerate(addresses):
        try:
            wire = parse_address(text).wire
        except BadAddress as error:
            complaints.append((f"Addresses[{index}]", f"is not an address that mail can be sent to: {error}"))
        else:
            if wire not in seen:
                seen[wire] = Recipient(address=text)
    if complaints:
        raise _BadLetter(complaints)
    return tuple(seen.values())


def _complaints_of(element: Mapping[str, Any], limits: Limits) -> list[tuple[str, str]]:
    try:
        _judged(_canonical(element), limits)
    except _BadLetter as error:
        return error.complaints
    return []


def _complaints(error: ValidationError) -> list[tuple[str, str]]:
    """Field and fault, by our own words; those about addresses name their place in the array."""
    found = []
    for detail in error.errors(include_url=False, include_context=False):
        name, *inner = detail["loc"]
        field = f"{name}[{inner[0]}]" if inner else str(name)
        text = f"must be a string, not {kind(detail['input'])}" if inner else detail["msg"]
        found.append((field, text))
    return found


def _reason(complaints: Sequence[tuple[str, str]]) -> str:
    named = "; ".join(f"{field} {text}" for field, text in complaints[:MAX_FAULTS])
    more = len(complaints) - MAX_FAULTS
    return f"{named}; and {more} more" if more > 0 else named


def _bad_letter(fields: Mapping[str, Any], origin: Origin, key: bytes | None, limits: Limits) -> Letter:
    """What can be stored of an element that is no good letter."""
    addresses = _kept_addresses(fields.get("Addresses"), limits)
    subject = _kept_text(fields.get("Subject"))
    body = _kept_text(fields.get("Body"))
    if octets(body) > limits.body:
        body = ""
    return Letter(
        id=_own_id(fields) or origin.letter_id(),
        addresses=addresses,
        subject=subject,
        body=body,
        answers=(Answer(token=_kept_token(fields.get("Token", "")), key=key, origin=origin),),
        status=Status.ERROR,
        digest=content_digest(addresses, subject, body, _as_published(fields)),
    )


def _as_published(fields: Mapping[str, Any]) -> str:
    """The further keys of a letter that are not as they may be, as JSON, to tell it from others by."""
    given = {name: fields[name] for name in (*KEYS, *HANDLING) if says(name, fields.get(name))}
    if not given:
        return ""
    if not depth_within(given, DEEP):
        return ", ".join(given)
    return json.dumps(given, sort_keys=True)


def _own_id(fields: Mapping[str, Any]) -> str:
    if own := _written_id(fields):
        return own
    key = fields.get("IdempotencyKey")
    return id_of_key(key) if isinstance(key, str) and key and not key_fault(key) else ""


def _written_id(fields: Mapping[str, Any]) -> str:
    value = fields.get("ID")
    if isinstance(value, str) and is_id(value) and value != NO_ID:
        return value.lower()
    return ""


def _kept_addresses(value: object, limits: Limits) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(cleaned(item) for item in value[: limits.addresses] if isinstance(item, str))


def _kept_text(value: object) -> str:
    return cleaned(value) if isinstance(value, str) else ""


def _kept_token(value: Any) -> Any:
    """The token when it can be one once its lone surrogates are replaced, else an empty one."""
    if not few_values(value) or not depth_within(value, MAX_TOKEN_DEPTH):
        return ""
    kept = _cleaned_token(value)
    return kept if token_fault(kept) is None else ""


def _cleaned_token(value: Any) -> Any:
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, JsonText):
        return JsonText(cleaned(value.text))
    if isinstance(value, list):
        return [_cleaned_token(item) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): _cleaned_token(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
