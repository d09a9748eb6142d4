"""The profile topic: a finished letter -> the bytes of its report.

A report is made from the stored letter alone, so it has the same words at every publishing. It goes to the
one who published the letter and names no address but the letter's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from typing import Any

import orjson

from mailsender.model.json_values import token_text
from mailsender.model.letter import Answer, Letter, PastAttempt, Phase, Recipient, Result, Status, Verdict
from mailsender.model.text import LONG, PIECE, storable
from mailsender.reports.schema import AttemptReport, Reason, RecipientReport, Report


class ReportTooLarge(Exception):  # noqa: N818  an answer about the letter, not a mistake of the program
    """Even what cannot be left out of a report is larger than the limit."""


def report(letter: Letter, answer: Answer) -> Report:
    """The report of a finished letter to one of its publishers."""
    fields = _fields(letter, answer)
    fields["Reason"] = Reason.model_construct(**fields["Reason"])
    fields["Recipients"] = [RecipientReport.model_construct(**each) for each in fields["Recipients"]]
    fields["History"] = [AttemptReport.model_construct(**each) for each in fields["History"]]
    return Report.model_construct(**fields)


def _fields(letter: Letter, answer: Answer) -> dict[str, Any]:
    """The fields of `Report`, in its order."""
    return {
        "ID": letter.id,
        "Addresses": list(letter.addresses),
        "Subject": letter.subject,
        "Body": letter.body,
        "Token": answer.token,
        "Status": "sent" if letter.status is Status.SENT else "error",
        "KafkaKey": "" if answer.key is None else answer.key.decode("utf-8", "replace"),
        "Reason": _reason(letter),
        "Recipients": [_recipient(each, each.result) for each in letter.recipients if each.result],
        "Attempts": letter.attempts,
        "History": [_past(each) for each in letter.history],
        "Relay": letter.relay,
        "MessageID": letter.message_id,
        "Time": _time(letter.finished_at),
        "Uncertain": any(recipient.uncertain for recipient in letter.recipients),
        "BodyOmitted": letter.bare,
        "Omitted": [],
        "Route": letter.route,
        "Stream": letter.handling.stream,
        "Tags": list(letter.handling.tags),
    }


def report_bytes(letter: Letter, answer: Answer, *, with_body: bool, limit: int) -> bytes:
    """The report as one line of UTF-8 JSON of at most `limit` bytes, without a newline.

    Too large, it goes without `Body`, then without its history, without the relay's words on each recipient,
    without the list of recipients, without the addresses, without subject, key, reason, at last without the
    token; `BodyOmitted` and `Omitted` say so.

    Raises:
        ReportTooLarge: what is left, the ID, the status and the names of the fields, is larger than `limit`.
    """
    # No text has more characters than octets: nobody has to write megabytes to see that they are too many.
    fits = with_body and len(letter.body) <= limit
    if fits and (raw := _plain(letter, answer)) is not None and len(raw) <= limit:
        return raw
    full = report(letter, answer)
    if not with_body:
        full = _without_body(full)
    for smaller in _ever_smaller(full):
        if len(smaller.Body) + len(smaller.Subject) + len(smaller.KafkaKey) > limit:
            continue
        raw = _encode(smaller)
        if len(raw) <= limit:
            return raw
    raise ReportTooLarge(f"the report of letter {letter.id} does not fit into {limit} bytes")


def _plain(letter: Letter, answer: Answer) -> bytes | None:
    """The bytes of `report`, None where the short way would not make the very same.

    Tokens that are no text go the long way: they have to be written as they were published.
    """
    if type(answer.token) is not str:
        return None
    fields = _fields(letter, answer)
    fields["Body"] = ""
    try:
        return _with_body(_escaped(orjson.dumps(fields)), letter.body)
    except TypeError:  # a lone surrogate: the model says what becomes of it
        return None


def _with_body(report_: bytes, text: str) -> bytes:
    """A report that was made without its body, with `text` for it.

    What seldom needs an escape is looked for in the text, where that takes 0.02 ns an octet; in its JSON,
    where it takes two octets, 1 ns.
    """
    before, behind = report_.split(_NO_BODY, 1)
    before += _NO_BODY[:-2]
    raw = orjson.dumps(text)
    odd = "\b" in text or "\f" in text or (b"\xe2" in raw and ("\u2028" in text or "\u2029" in text))
    if odd:
        return b"".join((before, _escaped(raw), behind))
    if len(raw) < LONG:
        return b"".join((before, _signs_escaped(raw), behind))
    whole = BytesIO()
    whole.write(before)
    for start in range(0, len(raw), PIECE):
        whole.write(_signs_escaped(raw[start : start + PIECE]))
    whole.write(behind)
    return whole.getvalue()


def _without_body(full: Report) -> Report:
    return full.model_copy(update={"Body": "", "BodyOmitted": True})


def _without_texts(full: Report) -> Report:
    terse = [recipient.model_copy(update={"Text": ""}) for recipient in full.Recipients]
    return _leave_out(full, "Recipients.Text", Recipients=terse)


_STEPS: tuple[Callable[[Report], Report], ...] = (
    _without_body,
    lambda full: _leave_out(full, "History", History=[]) if full.History else full,
    _without_texts,
    lambda full: _leave_out(full, "Recipients", Recipients=[]),
    lambda full: _leave_out(full, "Addresses", Addresses=[]),
    lambda full: _leave_out(full, "Subject", Subject=""),
    lambda full: _leave_out(full, "KafkaKey", KafkaKey=""),
    lambda full: _leave_out(full, "Reason.Text", Reason=full.Reason.model_copy(update={"Text": ""})),
    lambda full: _leave_out(full, "Token", Token=""),
)


def _ever_smaller(full: Report) -> Iterator[Report]:
    yield full
    for step in _STEPS:
        full = step(full)
        yield full


def _leave_out(full: Report, name: str, **changes: object) -> Report:
    return full.model_copy(update={**changes, "Omitted": [*full.Omitted, name]})


# The original's encoder (Go's encoding/json) writes these so; clients that compare text must not notice.
_ESCAPED = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_LINE_ENDS = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))
_BACKSLASHED = re.compile(rb"\\(.)")
_LONG_FORMS = {b"b": b"\\u0008", b"f": b"\\u000c"}


_LEFT_EMPTY, _NO_BODY = '"Token":""', b'"Body":""'
"""Within a text it would stand with backslashes before its quotes, so the first one there is is the field."""


def _encode(full: Report) -> bytes:
    apart = {"Body": ""} if storable(full.Body) else {}
    if type(full.Token) is not str:
        apart["Token"] = ""
    raw = full.model_copy(update=apart).model_dump_json()
    if "Token" in apart:  # what the model would write of a number is not what was published
        raw = raw.replace(_LEFT_EMPTY, f'"Token":{token_text(full.Token)}', 1)
    made = _escaped(raw.encode())
    return _with_body(made, full.Body) if "Body" in apart else made


def _signs_escaped(raw: bytes) -> bytes:
    for plain, escaped in _ESCAPED:
        raw = raw.replace(plain, escaped)
    return raw


def _escaped(raw: bytes) -> bytes:
    raw = _signs_escaped(raw)
    if b"\xe2" in raw:  # the first octet of both, and much faster to look for
        for plain, escaped in _LINE_ENDS:
            raw = raw.replace(plain, escaped)
    if b"\\b" in raw or b"\\f" in raw:
        raw = _BACKSLASHED.sub(lambda found: _LONG_FORMS.get(found.group(1), found.group()), raw)
    return raw


def _reason(letter: Letter) -> dict[str, Any]:
    """The fields of `Reason`."""
    decided = _decisive(letter)
    if letter.reason:
        phase = decided.phase if decided else Phase.INTAKE
        return {"Code": None, "EnhancedCode": "", "Text": letter.reason, "Phase": str(phase)}
    if decided is None:
        return {"Code": None, "EnhancedCode": "", "Text": "", "Phase": ""}
    return {
        "Code": decided.code,
        "EnhancedCode": decided.enhanced or "",
        "Text": decided.text,
        "Phase": str(decided.phase),
    }


def _decisive(letter: Letter) -> Result | None:
    """The result that made the status: an acceptance for `sent`; for `error` a refusal before a deferral."""
    order = (Verdict.ACCEPTED,) if letter.status is Status.SENT else (Verdict.REFUSED, Verdict.UNCERTAIN)
    results = [recipient.result for recipient in letter.recipients if recipient.result is not None]
    for verdict in order:
        for result in results:
            if result.verdict is verdict:
                return result
    return results[0] if results else None


def _recipient(recipient: Recipient, result: Result) -> dict[str, Any]:
    """The fields of `RecipientReport`."""
    return {
        "Address": recipient.address,
        "Status": str(result.verdict),
        "Code": result.code,
        "EnhancedCode": result.enhanced or "",
        "Text": result.text,
        "Phase": str(result.phase),
        "Uncertain": recipient.uncertain,
        "Relay": recipient.relay,
        "Rule": result.rule,
    }


def _past(past: PastAttempt) -> dict[str, Any]:
    """The fields of `AttemptReport`."""
    result = past.result
    return {
        "Time": _time(past.at),
        "Relay": past.relay,
        "Status": str(result.verdict),
        "Code": result.code,
        "EnhancedCode": result.enhanced or "",
        "Text": result.text,
        "Phase": str(result.phase),
        "Rule": result.rule,
        "Recipients": past.asked,
        "Accepted": past.accepted,
        "Seconds": past.seconds,
        "TLS": past.tls,
    }


@lru_cache(maxsize=16)  # letters that were written down together were finished together
def _time(when: datetime | None) -> str:
    if when is None:
        return ""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
