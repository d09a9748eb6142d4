"""What the service says about itself, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailsender.cli.terminal import moment

COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "relays": ("relay", "state", "breaker", "quota_left", "trouble", "again"),
    "orders": ("relay", "scope", "rule", "nothing_until", "part_of_the_rate_now", "full_rate_again", "said"),
    "routes": ("route", "relays", "awaiting", "deferred", "oldest_due_seconds", "blocked_because"),
}
"""What is shown of parts of which there are several; --json has all of it."""


def print_status(status: Mapping[str, Any], console: Console | None = None) -> None:
    """Print `/status`: a line on the service, what it waits for, then a table for each of its parts.

    The parts are taken as they come, so that a newer service can be asked with an older command.
    """
    console = console or Console()
    console.print(_headline(status))
    for reason in status.get("not_ready_because") or ():
        console.print(Text(f"  {reason}", style="yellow"))
    for condition in status.get("waits_for") or ():
        until = f", until {moment(condition['until'])}" if condition.get("until") else ""
        what = " ".join(filter(None, (condition["part"], condition.get("relay"))))
        line = f"  waits for {what}: {condition['text']}; since {moment(condition['since'])}{until}"
        console.print(Text(line, style="yellow"))
    for name, part in status.items():
        if isinstance(part, Mapping) and part:
            console.print(_table(name, part))
        elif name in COLUMNS and isinstance(part, list) and part:
            console.print(_rows(name, part))
            if name == "relays" and (orders := _orders(part)):
                console.print(_rows("orders", orders))


def _orders(relays: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What replies asked of their relays, each as a row."""
    return [
        {
            **order,
            "relay": relay.get("relay"),
            # What is over is told by no time that has passed.
            "nothing_until": order.get("until") or "somebody acts" if order.get("holds", True) else None,
            "part_of_the_rate_now": f"{order.get('pace', 1.0):.0%}",
            "full_rate_again": order.get("over") or "not by itself",
        }
        for relay in relays
        for order in relay.get("orders") or ()
    ]


def _headline(status: Mapping[str, Any]) -> Text:
    ready = bool(status.get("ready"))
    head = f"mailsender {status.get('version', '?')}: {status.get('state', '?')}, "
    return Text(head) + Text("ready" if ready else "not ready", style="green" if ready else "red")


def _table(name: str, part: Mapping[str, Any]) -> Table:
    table = Table(title=_words(name), title_justify="left", show_header=False, min_width=40)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for key, value in part.items():
        # Text, not str: brackets in a relay's reply are no markup.
        table.add_row(_words(key), Text(_shown(value)))
    return table


def _rows(name: str, parts: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=_words(name), title_justify="left")
    for column in COLUMNS[name]:
        table.add_column(_words(column), overflow="fold")
    for part in parts:
        table.add_row(*(Text(_shown(part.get(column))) for column in COLUMNS[name]))
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(key))} {_shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else moment(str(value))
