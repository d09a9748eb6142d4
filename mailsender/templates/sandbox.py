"""Where templates run: Jinja's immutable sandbox, with what it leaves open closed and counted.

Jinja's sandbox keeps templates away from Python's insides, and bounds neither time nor memory (its
maintainers leave that to the operating system: pallets/jinja#2149). A process that also sends letters cannot
be limited that way, so here every operation whose cost can grow is counted before it is done, in steps. A
count is the same on each machine and under any load: what was rendered once never fails for a slow moment.

Three rules make the count complete.

1. Only what `syntax.py` lists is allowed, only the filters and tests that are handed in, and only the
   attributes and callables named below. So values are JSON's, and what can be done with them is a short list.
   What led out of the sandbox before (`str.format`, CVE-2016-10745, CVE-2019-10906, CVE-2024-56326; the
   filter `attr`, CVE-2025-27516; names of templates, CVE-2024-56201) is not on it.
2. Whatever reads or makes something large goes through the meter: loops, calls, operators, filters, tests
   and attributes by Jinja's own hooks, the rest (comparison, ``~``, literals, slices, plain text) by nodes
   that `syntax.Counting` puts around them.
3. Nothing repeats but loops over what is there, and calls, which may go `Limits.calls` deep. Templates name
   each other by constants, so that circles are found when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    nodes,
    pass_context,
    pass_eval_context,
)
from jinja2.environment import TemplateModule
from jinja2.nodes import EvalContext
from jinja2.runtime import (
    BlockReference,
    Context,
    LoopContext,
    Macro,
    TemplateReference,
    markup_join,
    str_join,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, missing
from markupsafe import Markup

from mailsender.templates.meter import MAX_BITS, Refusal, kind_of, meter
from mailsender.templates.syntax import (
    CONCATENATED,
    COPIED,
    EACH,
    KEY,
    LOOKED_UP,
    MAX_TOKENS,
    TICK,
    WEIGHED,
    Counting,
    check,
)
from mailsender.templates.template import TemplateError

STEPS_OF_INCLUDING = 10
"""What it takes to find another template and to begin it, in steps."""

BITS_A_STEP = 64
"""Of a whole number that is written: the largest that JSON brings, of 4,300 digits, takes 0.2 ms."""

VARIABLES_A_STEP = 32
"""Entries of an object that are copied in a step."""


class MissingVariable(UndefinedError):  # noqa: N818  reads better where it is caught
    """A variable, or an attribute of one, that was not given."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.name = name


class Missing(StrictUndefined):
    """What stands for a variable that is not there: it can be tested and have a default, nothing else."""

    __slots__ = ()

    def __init__(
        self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = UndefinedError
    ) -> None:
        del exc
        super().__init__(hint, obj, name, lambda _: MissingVariable(name))  # type: ignore[arg-type]


# --- what stands in compiled templates ---------------------------------------------------------------


def written(value: Any) -> Any:
    """`value` as it goes into the letter: texts and numbers only.

    Raises:
        Refusal: it is null, or has parts, which are written out by Python's rules and surely by mistake.
        MissingVariable: it is not there.
    """
    kind = type(value)
    if kind is str or kind is Markup:
        meter().measure(len(value))
        return value
    if kind is int:
        meter().spend(2 + value.bit_length() // BITS_A_STEP)
        return value
    if kind is float or kind is bool:
        meter().spend(2)
        return value
    if isinstance(value, Undefined):
        str(value)
    raise Refusal(f"{kind_of(value)} cannot be written out; give it a default, loop over it or join it")


@pass_context
def _tick(_context: Context, steps: int) -> str:
    if steps < 0:
        raise Refusal("no such filter")
    meter().spend(steps)
    return ""


@pass_context
def _copied(context: Context, _value: Any) -> str:
    """Before what is given a copy of the context."""
    meter().spend(STEPS_OF_INCLUDING + (len(context.parent) + len(context.vars)) // VARIABLES_A_STEP)
    return ""


@pass_context
def _weighed(_context: Context, value: Any) -> Any:
    meter().weigh(value)
    return value


@pass_context
def _each(_context: Context, value: Any) -> Any:
    """What a loop goes over: its length is known before it begins."""
    if isinstance(value, Undefined):
        iter(value)  # raises
    if not isinstance(value, list | tuple | dict | str):
        raise Refusal(f"{kind_of(value)} cannot be looped over")
    meter().spend(len(value))
    return value


class _Computed:
    """A key that does not stand in the template."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key


@pass_context
def _looked_up(_context: Context, value: Any) -> _Computed:
    return _Computed(value)


@pass_context
def _key(_context: Context, value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise Refusal(f"{kind_of(value)} cannot be a key")
    return value


@pass_eval_context
def _concatenated(eval_ctx: EvalContext, values: list[Any]) -> str:
    """``a ~ b``."""
    values = [written(each) for each in values]
    return markup_join(values) if eval_ctx.autoescape else str_join(values)


def _range(*numbers: int) -> list[int]:
    """`range`, counted before it is made."""
    if not all(isinstance(each, int) for each in numbers):
        raise Refusal("range takes whole numbers")
    found = range(*numbers)
    try:
        meter().spend(len(found))
    except OverflowError:
        raise Refusal("range is too long") from None
    return list(found)


_OWN_FILTERS = {
    TICK: _tick,
    WEIGHED: _weighed,
    EACH: _each,
    KEY: _key,
    CONCATENATED: _concatenated,
    COPIED: _copied,
    LOOKED_UP: _looked_up,
}

_LOOP = frozenset(
    {"cycle", "changed", "depth", "depth0", "first", "index", "index0", "last", "length"}
    | {"nextitem", "previtem", "revindex", "revindex0"}
)
_METHODS: Mapping[type, frozenset[str]] = {
    dict: frozenset({"get", "items", "keys", "values"}),
    str: frozenset({"endswith", "lower", "split", "startswith", "strip", "upper"}),
    Markup: frozenset({"endswith", "lower", "split", "startswith", "strip", "upper"}),
    LoopContext: frozenset({"cycle", "changed"}),
}

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = ImmutableSandboxedEnvironment.default_binop_table


class _Source(Template):
    """One source, compiled; what imports it gets it run anew in each rendering."""

    def _get_default_module(self, ctx: Context | None = None) -> TemplateModule:  # noqa: ARG002  Jinja's signature
        """What an import without context means.

        Jinja runs it once for all letters, and what one of them put into a namespace would stand in the next.
        """
        modules = meter().modules
        if self not in modules:
            modules[self] = self.make_module()
        return modules[self]


class Sandbox(ImmutableSandboxedEnvironment):
    """One language's environment for one kind of part: HTML, which is escaped, or text, which is not."""

    template_class = _Source
    intercepted_binops = frozenset(_OPERATORS)

    def __init__(
        self,
        *,
        html: bool,
        filters: Mapping[str, Callable[..., Any]],
        tests: Mapping[str, Callable[..., Any]],
        **options: Any,
    ) -> None:
        super().__init__(
            autoescape=html,
            undefined=Missing,
            finalize=written,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            **options,
        )
        self.filters = {**filters, **_OWN_FILTERS}
        self.tests = dict(tests)
        self.globals = {"range": _range, "namespace": Namespace}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: of an object its key first, so that ``order.items`` is what the letter says."""
        return self._attribute(obj, attribute, attribute)

    def _attribute(self, obj: Any, attribute: str, name: str | None) -> Any:
        """The same; `name` is what an error may tell of it."""
        meter().spend(1)
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        if isinstance(obj, Undefined):
            str(obj)  # raises
        if isinstance(obj, TemplateReference):
            try:
                return obj[attribute]
            except KeyError:
                raise Refusal(f"there is no block {name or 'of this name'}") from None
        if attribute in _attributes(obj) or (
            isinstance(obj, Namespace | TemplateModule) and not attribute.startswith("_")
        ):
            return getattr(obj, attribute, self.undefined(obj=obj, name=name))
        return self.undefined(obj=obj, name=name)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``."""
        computed = type(argument) is _Computed
        key = argument.key if computed else argument
        meter().spend(1)
        if isinstance(obj, Undefined):
            str(obj)  # raises
        if isinstance(key, Undefined):
            str(key)  # raises
        if not isinstance(key, str | int):
            raise Refusal(f"{kind_of(key)} cannot be a key")
        if isinstance(obj, dict | list | tuple | str):
            found: Any = obj
            try:
                return found[key]
            except (TypeError, LookupError):
                pass
        name = None if computed else str(key)
        return self._attribute(obj, key, name) if isinstance(key, str) else self.undefined(obj=obj, name=name)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """``left operator right``, for numbers, and what lengthens texts and lists within bounds."""
        own = meter()
        own.spend(1)
        if isinstance(left, int | float) and isinstance(right, int | float):
            return _computed(operator, left, right)
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            str(left) if isinstance(left, Undefined) else str(right)  # raises
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            own.measure(len(left) + len(right))
        elif operator == "+" and isinstance(left, list) and isinstance(right, list):
            own.weigh(left)
            own.weigh(right)
        elif operator == "*" and isinstance(left, str) and isinstance(right, int):
            own.measure(len(left) * max(right, 0))
        else:
            raise Refusal(f"{kind_of(left)} {operator} {kind_of(right)} cannot be computed")
        return _OPERATORS[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  Jinja's names
        """``obj(...)``: macros, blocks, and the methods named above."""
        own = meter()
        if not _callable(__obj):
            if isinstance(__obj, Undefined):
                str(__obj)  # raises
            raise Refusal(f"{kind_of(__obj)} cannot be called")
        if type(__obj) is BuiltinMethodType and isinstance(__obj.__self__, str):
            own.measure(len(__obj.__self__))
        for each in args:
            own.weigh(each)
        for key, each in kwargs.items():
            if not key.startswith("_"):  # Jinja's own
                own.weigh(each)
        if own.calls <= 0:
            raise Refusal(f"macros and blocks call each other more than {own.limits.calls} deep")
        own.calls -= 1
        try:
            return own.of(__context.call(__obj, *args, **kwargs))
        finally:
            own.calls += 1

    def handle_exception(self, source: str | None = None) -> NoReturn:  # noqa: ARG002  Jinja's signature
        """Raises what is being handled: the traceback that Jinja makes holds itself, and the source."""
        raise  # noqa: PLE0704  it is called where an error is handled

    def parsed(self, source: str, name: str, label: str) -> nodes.Template:
        """`source` as a tree that may be compiled.

        Raises:
            TemplateError: it is no template, or does what none may.
        """
        try:
            self._count_tokens(source, name, label)
            tree = self.parse(source, name, label)
        except TemplateSyntaxError as error:
            raise TemplateError(error.message or "syntax", template=label, line=error.lineno) from None
        except RecursionError:
            raise TemplateError("its parts are nested too deeply", template=label) from None
        except TemplateError:
            raise
        except ValueError:  # Python's own limit, of 4,300 digits
            raise TemplateError("a number in it is too long", template=label) from None
        check(tree, label)
        return tree

    def _count_tokens(self, source: str, name: str, label: str) -> None:
        tokens = self.lexer.tokeniter(source, name, label)
        if sum(1 for _ in islice(tokens, MAX_TOKENS + 1)) > MAX_TOKENS:
            raise TemplateError(f"it has more than {MAX_TOKENS} words of code", template=label)

    def counting(self, tree: nodes.Template) -> nodes.Template:
        """`tree` with its meter built in; it is changed."""
        Counting().visit(tree)
        tree.set_environment(self)
        return tree


def _attributes(obj: Any) -> frozenset[str]:
    """What may be had of `obj` by its name."""
    kind = type(obj)
    if kind is LoopContext:
        return _LOOP
    if kind is BlockReference:
        return frozenset({"super"})
    if isinstance(obj, tuple):
        return frozenset({"grouper", "list"})  # what the filter groupby makes
    return _METHODS.get(kind, frozenset())


def _callable(what: Any) -> bool:
    kind = type(what)
    if kind is MethodType or kind is BuiltinMethodType:
        return what.__name__ in _METHODS.get(type(what.__self__), ())
    return kind is Macro or kind is BlockReference or what is Namespace or what is _range


def _computed(name: str, left: float, right: float) -> Any:
    if name == "**" and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
    else:
        bits = 0
    if bits > MAX_BITS:
        raise Refusal("the number would be too large")
    return _OPERATORS[name](left, right)
