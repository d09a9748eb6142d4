"""Why a letter is where it is, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mailsender.model.text import cleaned

RECIPIENTS_SHOWN: Final = 20


def told(answer: Mapping[str, Any]) -> Iterator[str]:
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
        relays = " or ".join(each["next_relays"]) or "no relay now"
        at = f", at {each['next_try']}" if each["next_try"] else ""
        yield f"{each['address']}: next {relays}{at}"
    more = len(people[RECIPIENTS_SHOWN:]) + answer["recipients_left_out"]
    if more:
        yield f"… and {more} more recipients"


def list_told(entries: list[dict[str, Any]] | None) -> Iterator[str]:
    """Whether the suppression list has an address; None where no service could be asked."""
    if entries is None:
        yield "list    not known: no service could be asked for its suppression list"
    elif not entries:
        yield "list    the address is not on the suppression list"
    for each in entries or ():
        until = f", until {each['until']}" if each.get("until") else ""
        stream = f" for the stream {each['stream']}" if each.get("stream") else ""
        reason = f" ({_line(each['reason'])})" if each.get("reason") else ""
        yield f"list    nothing is sent: {each['address']}{stream}, by {each['source']}{reason}{until}"


def _line(text: str) -> str:
    """A text in one line, without what could steer the terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in cleaned(text)).split())
