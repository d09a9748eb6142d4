"""What would become of letters, for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mailsender.cli.client import fault_lines
from mailsender.model.text import counted

_CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_RECIPIENTS_SHOWN = 20


def letters_told(answer: Mapping[str, Any]) -> Iterator[str]:
    """Lines for each letter that `POST /post?dry_run=true` shows, and its messages."""
    for letter in answer["shown"]:
        own = letter["id"] or "gets an ID when it is posted"
        relays = ", ".join(letter["relays"])
        yield f"letter {letter['index']}: {own}"
        yield f"  route {letter['route']} over {relays}, reverse-path {letter['reverse_path']}"
        for way in letter.get("ways") or ():  # an older service tells none
            people = counted(way["recipients"], "recipient")
            yield f"  {people} by the route {way['route']} ({way['why']}): {', '.join(way['relays'])}"
        if letter.get("suppressed", ()) is None:
            yield "  the suppression list cannot be read now"
        elif letter.get("suppressed"):
            yield f"  nothing to {', '.join(letter['suppressed'])}: on the suppression list"
        some = letter["recipients"][:_RECIPIENTS_SHOWN]
        more = len(letter["recipients"]) - len(some) + letter["recipients_left_out"]
        yield f"  to {', '.join(some)}" + (f" and {more} more" if more else "")
        for message in letter["messages"]:
            person = f" for {message['person']}" if message["person"] else ""
            yield f"  message of {message['size']} bytes{person}"
            yield from _text(message["text"])
        if letter["messages_left_out"]:
            yield f"  … and {letter['messages_left_out']} more messages"


def end_told(answer: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, then how many letters there were."""
    yield from fault_lines(answer["faults"])
    left_out = answer["letters"] - len(answer["shown"])
    more = f", of which {left_out} are not shown" if left_out else ""
    yield f"{counted(answer['letters'], 'letter')}{more}; nothing was published"


def _text(text: str | None) -> Iterator[str]:
    """A message line by line; what could steer the terminal is shown as an escape."""
    if text is None:
        yield "    (not shown: there is too much)"
        return
    for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n"):
        yield "    " + _CONTROL.sub(_escaped, line)


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
