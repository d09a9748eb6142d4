"""Why a letter is where it is, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from mailsender.cli.terminal import moment
from mailsender.model.text import cleaned

RECIPIENTS_SHOWN: Final = 20


def told(answer: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Lines for what `GET /letters/{id}/explain` answers: sentences, then each relay, then each recipient."""
    yield f"letter {answer['id']}: {answer['status']}"
    for sentence in answer["says"]:
        yield f"  {_line(sentence)}"
    for way in answer["ways"]:
        yield f"route {way['route']}"
        for stop in way["relays"]:
            weight = f", weight {stop['weight']}" if stop["weight"] else ""
            fallback = ", only where none of the others goes" if stop["fallback"] else ""
            stopped = " ".join(each["text"] for each in stop["obstacles"])
            yield f"  {stop['relay']}{weight}{fallback}: {_line(stopped) or 'goes'}"
    people = answer["recipients"]
    for each in people[:RECIPIENTS_SHOWN]:
        yield f"{each['address']}: {_next(each, now)}"
    more = len(people[RECIPIENTS_SHOWN:]) + answer["recipients_left_out"]
    if more:
        yield f"… and {more} more recipients"


def _next(person: Mapping[str, Any], now: datetime) -> str:
    """Which relay is next for a recipient, and when: a time that has passed is that since when it is due."""
    if any(each["kind"] == "suppressed" for each in person["obstacles"]):
        return "nothing is sent to it"
    relays = " or ".join(person["next_relays"])
    head, at = (f"next {relays}", ", at") if relays else ("no relay goes for it now", "; due at")
    due = person["next_try"]
    if not due:
        return head
    if datetime.fromisoformat(due) <= now:
        at = f"{at[0]} due since"
    return f"{head}{at} {moment(due)}"


def list_told(entries: list[dict[str, Any]] | None) -> Iterator[str]:
    """Whether the suppression list has an address; None where no service could be asked."""
    if entries is None:
        yield "list    not known: no service could be asked for its suppression list"
    elif not entries:
        yield "list    the address is not on the suppression list"
    for each in entries or ():
        until = f", until {moment(each['until'])}" if each.get("until") else ""
        stream = f" for the stream {each['stream']}" if each.get("stream") else ""
        reason = f" ({_line(each['reason'])})" if each.get("reason") else ""
        yield f"list    nothing is sent: {each['address']}{stream}, by {each['source']}{reason}{until}"


def _line(text: str) -> str:
    """A text in one line, without what could steer the terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in cleaned(text)).split())
