"""The file as a whole."""

from __future__ import annotations

from typing import Any, Final

from mailsender.model.json_schema import schema_of
from mailsender.settings.file.kinds import Name, Table, Texts, Wait, key
from mailsender.settings.file.relays import RelayTable
from mailsender.settings.file.routes import RouteTable
from mailsender.settings.kinds import DAY

MOST_RELAYS: Final = 100
"""Relays of one service: each has loops, sessions and a document of its own, whether it is used or not."""

MOST_ROUTES: Final = 500
"""Routes of one service: each is looked at for each letter at intake, and claims by itself."""


class SuppressionTable(Table):
    """How long addresses that refused mail for good are left alone."""

    for_: Wait = key(30 * DAY, "How long an address that was refused gets no letters.", "30d", alias="for")
    transactional: Texts = key(
        ["transactional"],
        "Streams whose letters may override the list with `Suppression`.",
        ["transactional", "codes"],
    )


class FileTables(Table):
    """All that may stand in the file."""

    relays: dict[Name, RelayTable] = key(
        {}, "SMTP servers that letters go to, by their names.", max_length=MOST_RELAYS
    )
    routes: dict[Name, RouteTable] = key(
        {},
        "Which letters go where; the first that fits, in the order of the file, else `default`.",
        max_length=MOST_ROUTES,
    )
    suppression: SuppressionTable = key(SuppressionTable(), "Addresses that get no letters.")


def json_schema() -> dict[str, Any]:
    """What editors are told of the file."""
    return {"title": "mailsender's configuration", **schema_of(FileTables, "validation")}
