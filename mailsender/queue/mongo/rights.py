"""What a user of MongoDB has to be allowed, and what of it one is not. Pure.

The terms are MongoDB's: a privilege is a resource and the actions that are allowed on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_KEEPS: Final = frozenset({"find", "insert", "update"})
_FORGETS: Final = _KEEPS | {"remove", "createIndex"}

RIGHTS: Final[Mapping[str, frozenset[str]]] = {
    "": _FORGETS,
    ".outbox": _FORGETS,
    ".replicas": _KEEPS | {"remove"},
    ".slots": _KEEPS,
    ".deadletters": _KEEPS | {"createIndex"},
    ".partitions": _KEEPS,
    ".flows": _KEEPS | {"createIndex"},
    ".blobs.files": _FORGETS,
    ".blobs.chunks": _FORGETS | {"collStats"},
    ".suppression": _FORGETS,
    ".templates": _KEEPS,
    ".templates.pinned": _KEEPS,
}
"""What the service does in each collection, by what follows the name of the letters' collection."""

_ANY: Final = "anyAction"


def lacking(privileges: Iterable[Mapping[str, Any]], database: str, collection: str) -> str:
    """The rights that `privileges` do not give, in words for an operator; empty where nothing is lacking.

    Args:
        privileges: as `connectionStatus` tells them.
        database: where the letters are.
        collection: of letters.
    """
    known = list(privileges)
    places: dict[str, list[str]] = {}
    for beside, needed in RIGHTS.items():
        name = collection + beside
        allowed = {action for each in known if _covers(each, database, name) for action in each["actions"]}
        missing = frozenset() if _ANY in allowed else needed - allowed
        if missing:
            places.setdefault(", ".join(sorted(missing)), []).append(f"{database}.{name}")
    return "; ".join(f"{actions} in {' and '.join(sorted(names))}" for actions, names in places.items())


def _covers(privilege: Mapping[str, Any], database: str, collection: str) -> bool:
    """An empty name stands for all; `anyResource` for everything there is."""
    resource = privilege["resource"]
    if resource.get("anyResource"):
        return True
    return resource.get("db") in {"", database} and resource.get("collection") in {"", collection}
