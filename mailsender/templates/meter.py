"""What a rendering costs, counted as it goes, and ended where it costs too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from jinja2 import Template, Undefined
from jinja2.environment import TemplateModule
from jinja2.runtime import BlockReference, LoopContext, Macro, TemplateReference
from jinja2.utils import Namespace
from markupsafe import Markup

from mailsender.templates.template import Limits

CHARACTERS_A_STEP = 32
"""Copying 32 characters costs about as much as doing anything at all."""


MAX_BITS = 256
"""Of a whole number: more than any sum of money, and its digits are written in no time."""


class Refusal(Exception):  # noqa: N818  it never leaves this package
    """Something that a template may not do, or not so much of; the text says what."""


class Meter:
    """What one rendering has left. A step takes a microsecond, more or less."""

    __slots__ = ("calls", "left", "limits", "modules")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.steps
        self.calls = limits.calls
        self.modules: dict[Template, TemplateModule] = {}
        """What was imported: a namespace in it is this rendering's, and no other letter's."""

    def spend(self, steps: int) -> None:
        """Counts `steps`.

        Raises:
            Refusal: there are not so many left.
        """
        self.left -= steps
        if self.left < 0:
            raise Refusal(f"it takes more than {self.limits.steps} steps: loop over less, or write less")

    def weigh(self, value: Any) -> None:
        """Counts what it takes to compare, hash or write `value` whole.

        A list that holds another one twice weighs twice as much: lists made of themselves grow without
        taking memory, until they are written. So do namespaces in a list; one by itself is not looked into,
        for neither a comparison nor a call does that.

        Raises:
            Refusal: there are not so many steps left, or it holds what is no data.
        """
        kind = type(value)
        if kind is str or kind is Markup:
            self.spend(1 + len(value) // CHARACTERS_A_STEP)
        elif isinstance(value, _CONTAINERS):  # also what the filter groupby makes
            open_: list[Any] = [value]
            while open_:
                each = open_.pop()
                kind = type(each)
                if kind is dict:
                    self.spend(1 + len(each))
                    open_.extend(each.values())
                elif kind is str or kind is Markup:
                    self.spend(1 + len(each) // CHARACTERS_A_STEP)
                elif isinstance(each, list | tuple):
                    self.spend(1 + len(each))
                    open_.extend(each)
                elif kind is Namespace:
                    inside = object.__getattribute__(
                        each, "_Namespace__attrs"
                    )  # all others are the template's
                    self.spend(1 + len(inside))
                    open_.extend(inside.values())
                elif isinstance(each, CODE):
                    raise Refusal(f"{kind_of(each)} cannot be in a list or an object")
        else:
            self.spend(1)

    def measure(self, size: int) -> None:
        """Counts a text of `size` characters that is about to be made."""
        self.spend(1 + size // CHARACTERS_A_STEP)

    def of(self, value: Any) -> Any:
        """`value`, its outermost size counted: what a filter or a call just made."""
        if isinstance(value, str):
            self.spend(len(value) // CHARACTERS_A_STEP)
        elif isinstance(value, list | tuple | dict):
            self.spend(len(value))
        elif isinstance(value, _VIEWS):
            value = list(value)
            self.spend(len(value))
        return value


CODE: tuple[type, ...] = (
    *(BuiltinFunctionType, FunctionType, MethodType, type),
    *(BlockReference, LoopContext, Macro, TemplateModule, TemplateReference),
)
"""What templates call, and never write: Python would write some of it with an address in memory."""

_VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS = (list, tuple, dict)
_METER: ContextVar[Meter] = ContextVar("template_meter")

meter: Callable[[], Meter] = _METER.get
"""The meter of the rendering that is going on."""


@contextmanager
def metered(limits: Limits) -> Iterator[Meter]:
    """Counts what is compiled and rendered within it."""
    own = Meter(limits)
    token = _METER.set(own)
    try:
        yield own
    finally:
        _METER.reset(token)


def kind_of(value: Any) -> str:
    """What `value` is, in words for the author of a template."""
    if value is None:
        return "null"
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "this"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    ((list, tuple, *_VIEWS), "a list"),
    (dict, "an object"),
    (CODE, "a macro, a block or a method"),
    (Undefined, "a missing variable"),
)
