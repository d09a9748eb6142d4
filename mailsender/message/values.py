"""The value of a letter's key, taken as what it should be, or an error that names the key. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from mailsender.message.compose import BadBody, BadHeader
from mailsender.message.parts import BadPart
from mailsender.model.address import BadAddress
from mailsender.model.terms import BadTerms

T = TypeVar("T")

_OF_PARTS: Final = frozenset({"Calendar", "DSN", "ListUnsubscribe"})
"""Keys whose value is an object in which nothing that is empty means anything."""


class BadKey(ValueError):  # noqa: N818  reads better where it is caught
    """A key of a letter holds what no message can be made of; the message says what, without quoting it.

    `further` are the other faults of the same letter. `beside` is the address that the value stands beside,
    where it is one of those of `Addresses`.
    """

    beside: str | None = None

    def __init__(self, key: str, text: str, further: Sequence[BadKey] = ()) -> None:
        super().__init__(f"{key} {text}")
        self.key = key
        self.text = text
        self.further = tuple(further)

    @classmethod
    def of(cls, found: Sequence[BadKey]) -> BadKey:
        """The first of the faults of a letter, with the others behind it."""
        first, *others = found
        whole = cls(first.key, first.text, others)
        whole.beside = first.beside
        return whole


def says(key: str, value: Any) -> bool:
    """Whether the value of a key says something: null says nothing, and neither does what is empty.

    Some programs write what they leave out as an empty text, array or object, or as an object of such ones
    alone: Go without ``omitempty``, PHP with ``[]`` for any of them.
    """
    if key in _OF_PARTS and isinstance(value, dict):
        return not all(map(_empty, value.values()))
    return not _empty(value)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def kind(value: object) -> str:
    """What JSON calls a value, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    kinds: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return kinds.get(type(value), "null")


def of_type(key: str, value: object, wanted: type[T], named: str) -> T:
    """`value`, if it is a `wanted`. Raises BadKey."""
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    raise BadKey(key, f"must be {named}, not {kind(value)}")


def string(key: str, value: object) -> str:
    """`value`, if it is a string. Raises BadKey."""
    return of_type(key, value, str, "a string")


def members(key: str, value: object, *names: str) -> dict[str, Any]:
    """The members of an object that say something; it has none but `names`. Raises BadKey."""
    found = of_type(key, value, dict, "an object")
    for name in found:
        if name not in names:
            raise BadKey(key, f"has a key that it does not know; there are {', '.join(names)}")
    return {name: each for name, each in found.items() if not _empty(each)}


def checked(key: str, make: Callable[[], T]) -> T:
    """What `make` returns; what it refuses is the fault of `key`. Raises BadKey."""
    try:
        return make()
    except BadAddress as error:
        raise BadKey(key, f"is no address that mail can be sent from or to: {error}") from None
    except (BadHeader, BadPart, BadBody) as error:
        raise BadKey(key, f"cannot be sent: {error}") from None
    except BadTerms as error:
        raise BadKey(key, str(error)) from None
