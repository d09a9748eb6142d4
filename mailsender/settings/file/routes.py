"""The tables of a route."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from mailsender.settings.file.kinds import (
    MOST_ENTRIES,
    Mailboxes,
    Name,
    Part,
    Size,
    Stream,
    Streams,
    Table,
    Text,
    Texts,
    Wait,
    key,
    listed,
)

MOST_SHARE: Final = 1000.0
"""How many times as much as another a flow may get: to one with less nothing would come through."""

Level: TypeAlias = Literal["high", "normal", "low"]


def _weighed(value: object) -> object:
    """The table of a relay that stands there by its name alone."""
    return {"name": value} if isinstance(value, str) else value


class MatchTable(Table):
    """Which letters a route is for: all that is said has to fit; of a list one entry."""

    stream: Streams | None = key(None, "The letter's `Stream`.", "newsletter", ["news", "digest"])
    sender: Mailboxes | None = key(
        None,
        "One of its `From`, `Sender` and `ReversePath`, or the service's sender where it names none: an"
        " address, a domain, `*.domain`.",
        "news@example.org",
    )
    destination: Mailboxes | None = key(
        None, "The recipient: a domain, `*.domain`, or an address.", ["gmail.com", "*.example.net"]
    )
    priority: (
        Annotated[
            list[Level],
            BeforeValidator(listed, json_schema_input_type=Level | list[Level]),
            Field(min_length=1),
        ]
        | None
    ) = key(None, "Its `Priority`.", "low")
    tag: Texts | None = key(None, "One of its `Tags`.", "digest")
    larger: Size | None = key(
        None,
        "Its subject, HTML, text and other keys have more characters than this; attachments do not count.",
        "1MB",
    )
    smaller: Size | None = key(
        None, "Its subject, HTML, text and other keys have fewer characters than this.", "100KB"
    )


class ShareTable(Table):
    """A relay of a route, and its share of the route's letters."""

    name: Name = key(..., "The relay.", "ses")
    weight: int | None = key(None, "Its share beside the others'.", 3, ge=1, le=1000)


_Share: TypeAlias = Annotated[ShareTable, BeforeValidator(_weighed, json_schema_input_type=Name | ShareTable)]


class RouteTable(Table):
    """Which letters take it, over which relays, and how often they are tried."""

    match: MatchTable | None = key(
        None,
        "The letters that take it: the first route that fits a letter is its own.",
        {"stream": "newsletter"},
    )
    relays: list[_Share] = key(
        ...,
        "Its relays: in their order, or with a weight each for a share of the letters.",
        ["ses", "postfix"],
        [{"name": "ses", "weight": 3}, {"name": "sendgrid", "weight": 1}],
        min_length=1,
        max_length=20,  # each is asked in turn before a letter has to wait
    )
    fallback: list[Name] = key(
        [], "Relays that are tried where none of `relays` goes.", ["postfix"], max_length=20
    )
    retry: Text = key(
        "",
        "Waits between attempts; the last one repeats. Without it as `SMTP_RETRY_DELAY` says.",
        "1m, 5m*2, 30m, 1h*3, 4h",
    )
    expire: Wait | None = key(
        None,
        "Time from a letter's acceptance after which it is given up. Without it as `SMTP_RETRY_FOR` says.",
        "2d",
    )
    window: Text = key(
        "",
        "When letters are sent; what is due outside of it waits until it is open. Without it: at all times.",
        "Mon-Fri 08:00-20:00 Europe/Moscow",
    )
    share: float = key(
        1.0,
        "What a stream gets of the rate beside others, and the route beside others over the same relay.",
        1,
        gt=0,
        le=MOST_SHARE,
    )
    shares: dict[Stream, Annotated[float, Field(gt=0, le=MOST_SHARE)]] = key(
        {}, "The same for single streams.", {"transactional": 3, "newsletter": 1}, max_length=MOST_ENTRIES
    )
    reserve: Part = key(
        0.0,
        "The part of each relay's rate and sessions that is kept for its letters of priority `high`, before"
        " the rest is shared; what they do not need is not lost.",
        "10%",
    )
    open: bool = key(False, "Whether letters may name it in `Route`.")
