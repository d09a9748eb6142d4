"""What templates may do with values: Jinja's filters and tests that are harmless, and those of a language.

What is left out, and why: `format`, `attr` and `xmlattr` led out of the sandbox or of the markup before,
`random` makes a letter that cannot be made again, `urlize`, `striptags` and `wordwrap` take time that grows
with the square of a text, `center`, `pprint` and `filesizeformat` have no place in a letter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache, wraps
from inspect import signature
from itertools import islice
from typing import Any

import orjson
from babel import Locale, UnknownLocaleError, dates, numbers
from jinja2 import Environment, pass_eval_context
from jinja2.filters import FILTERS, do_indent
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, Undefined
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from markupsafe import Markup, escape

from mailsender.templates.meter import CODE, Refusal, kind_of, meter
from mailsender.templates.sandbox import written

MAX_DIGITS = 18
"""Digits before the point of a number that is written for people: a thousand times the world's money."""

MAX_DECIMALS = 10
MAX_PATTERN = 64
"""Characters of a pattern for dates, of a date, and of what is trimmed."""

MAX_INDENT = 40

STEPS_OF_WORDS = 30
"""What a date, a number or an amount takes to write out, in steps."""

REMEMBERED = 256
"""Words that each filter of a language keeps: some 100 KB."""

# fmt: off
_PLAIN_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse",
    "safe", "select", "selectattr", "sort", "string", "title", "truncate", "unique", "upper", "urlencode",
)
_PLAIN_TESTS = (
    "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "greaterthan", "gt",
    "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd",
    "sequence", "string", "true", "undefined", "upper", "==", "!=", ">", ">=", "<", "<=",
)
# fmt: on
_SLOW = frozenset({"dictsort", "groupby", "max", "min", "sort", "title", "unique"})
"""They look at each value more than once, or at each letter by a pattern."""


@lru_cache(maxsize=32)
def filters_of(locale: Locale) -> Mapping[str, Callable[..., Any]]:
    """All filters, those for people in the words of `locale`."""
    return {**_plain_filters(), **_Words(locale).filters()}


def tests() -> Mapping[str, Callable[..., Any]]:
    """All tests."""
    return _TESTS


@lru_cache(maxsize=512)  # more than CLDR has
def locale_of(lang: str) -> Locale | None:
    """What CLDR says of a language, None where it does not know it."""
    try:
        return Locale.parse(lang, sep="-")
    except (UnknownLocaleError, ValueError):
        return None


# --- Jinja's -----------------------------------------------------------------------------------------


def _counted(
    name: str, function: Callable[..., Any], *, looks: int = 1, steps: int = 0
) -> Callable[..., Any]:
    """The filter `name` on the meter: what it reads, `looks` times, what it makes, and `steps`; not lazy."""

    @wraps(function)  # also Jinja's marks of what is passed
    def run(*args: Any, **kwargs: Any) -> Any:
        own = meter()
        own.spend(steps)
        for each in (*args, *kwargs.values()):
            if isinstance(each, CODE):
                raise Refusal(f"{kind_of(each)} cannot be filtered")
            for _ in range(looks):
                own.weigh([each] if type(each) is Namespace else each)  # some write whatever they are given
        try:
            made = function(*args, **kwargs)
            if isinstance(made, Iterator):
                made = list(islice(made, own.left + 1))
        except TypeError:
            raise Refusal(_misuse(name, function, args, kwargs)) from None
        return own.of(made)

    return run


def _misuse(name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What is wrong with how a filter or a test is used, in the words of templates and without values."""
    try:
        form = signature(function)
    except ValueError:  # those of C that tell nothing: comparisons
        return f"{name} cannot be asked of {kind_of(args[0])} with what it is given"
    try:
        form.bind(*args, **kwargs)
    except TypeError:
        names = [each.name for each in form.parameters.values() if each.name not in _PASSED][1:]
        return f"{name} takes {', '.join(names) or 'nothing'} beside its value, not what it is given"
    value = next(each for each in args if not isinstance(each, EvalContext | Environment | Context))
    return f"{name} cannot be made of {kind_of(value)} with what it is given"


_PASSED = frozenset({"eval_ctx", "environment", "context"})  # by Jinja, before the value


@lru_cache(maxsize=1)
def _plain_filters() -> dict[str, Callable[..., Any]]:
    jinjas = {name: _counted(name, FILTERS[name], looks=3 if name in _SLOW else 1) for name in _PLAIN_FILTERS}
    ours = (_batch, _indent, _join, _replace, _round, _sum, _tojson, _trim)
    return {**jinjas, **{each.__name__[1:]: _counted(each.__name__[1:], each) for each in ours}}


def _weighed(name: str, test: Any) -> Callable[..., bool]:
    """The test `name` on the meter. Unlike a filter it may look at anything: ``caller is defined``."""

    @wraps(test)
    def run(*args: Any) -> bool:
        own = meter()
        for each in args:
            own.weigh(each)
        try:
            return bool(test(*args))
        except TypeError:
            raise Refusal(_misuse(name, test, args, {})) from None

    return run


_TESTS = {name: _weighed(name, TESTS[name]) for name in _PLAIN_TESTS}


def _batch(value: Any, linecount: int) -> list[list[Any]]:
    """Rows of `linecount` values."""
    if linecount < 1:
        raise Refusal("batch takes a count of at least 1")
    values = list(value)
    return [values[i : i + linecount] for i in range(0, len(values), linecount)]


def _indent(value: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise Refusal(f"indent takes a width of 0 to {MAX_INDENT}")
    meter().measure(len(value) + value.count("\n") * width)
    return do_indent(value, width, first, blank)


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Any, separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        value = [eval_ctx.environment.getitem(each, attribute) for each in value]
    parts = [written(each) for each in value]
    separator = written(separator)
    meter().measure(len(separator) * len(parts))
    if eval_ctx.autoescape:
        return escape(separator).join(parts)
    return str(separator).join(map(str, parts))


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    if not isinstance(old, str) or not isinstance(new, str) or not old:
        raise Refusal("replace takes two texts, the first not empty")
    text = value if isinstance(value, str) else str(written(value))
    # A new text that is escaped takes up to five times the room.
    meter().measure(len(text) + 5 * len(new) * str.count(text, old))
    return text.replace(old, new, count)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(precision, int) or not 0 <= precision <= MAX_DECIMALS:
        raise Refusal(f"round takes a precision of 0 to {MAX_DECIMALS}")
    if isinstance(value, Undefined):
        str(value)  # raises
    rounded: float = FILTERS["round"](value, precision, method)
    return rounded


def _sum(value: Any, attribute: str | None = None, start: float = 0) -> float:
    """A sum of numbers: lists would be copied once for each."""
    for each in value:
        part = each if attribute is None else each[attribute]
        if not isinstance(part, int | float):
            raise Refusal("sum takes numbers")
        start += part
    return start


def _tojson(value: Any) -> Markup:
    """JSON that may stand in HTML, in a script or an attribute in single quotes."""
    text = orjson.dumps(value, default=str).decode()
    for char in "<>&'":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704  nothing in it means anything to HTML any more


def _trim(value: str, chars: str | None = None) -> str:
    if isinstance(chars, str) and len(chars) > MAX_PATTERN:
        raise Refusal(f"trim takes at most {MAX_PATTERN} characters")
    return (value if isinstance(value, str) else str(written(value))).strip(chars)


# --- of a language -----------------------------------------------------------------------------------


class _Words:
    """Dates, numbers, money and plurals as one language has them (CLDR, by Babel)."""

    def __init__(self, locale: Locale) -> None:
        self._locale = locale

    def filters(self) -> dict[str, Callable[..., Any]]:
        ours = (self.date, self.datetime, self.time, self.money, self.number, self.percent)
        found = {
            each.__name__: _counted(each.__name__, _remembered(each), steps=STEPS_OF_WORDS) for each in ours
        }
        # Its forms may be of any length, and are not kept.
        return {**found, "plural": _counted("plural", self.plural, steps=STEPS_OF_WORDS)}

    def date(self, value: Any, style: str = "long", zone: str | None = None) -> str:
        """``2026-11-29`` as a date: `style` is short, medium, long, full, or a pattern of CLDR."""
        return dates.format_date(_moment(value, zone).date(), _style(style), locale=self._locale)

    def datetime(self, value: Any, style: str = "medium", zone: str | None = None) -> str:
        """``2026-11-29T14:57:00Z`` as a date and a time, in `zone` if one is named (``Europe/Moscow``)."""
        return dates.format_datetime(_moment(value, zone), _style(style), locale=self._locale)

    def time(self, value: Any, style: str = "short", zone: str | None = None) -> str:
        """The same, as a time of day."""
        moment = _moment(value, zone)
        return dates.format_time(moment, _style(style), tzinfo=moment.tzinfo, locale=self._locale)

    def number(self, value: Any, decimals: int | None = None) -> str:
        """A number with its groups; `decimals` after the point, or as many as it has."""
        amount = _amount(value)
        if decimals is None:
            decimals = min(MAX_DECIMALS, max(0, -int(amount.as_tuple().exponent)))
            pattern = "#,##0." + "#" * decimals if decimals else "#,##0"
        else:
            pattern = "#,##0" + _decimals(decimals)
        return numbers.format_decimal(amount, format=pattern, locale=self._locale)

    def percent(self, value: Any, decimals: int = 0) -> str:
        """``0.15`` as a percentage."""
        pattern = self._locale.percent_formats[None].pattern.replace("#,##0", "#,##0" + _decimals(decimals))
        return numbers.format_percent(_amount(value), format=pattern, locale=self._locale)

    def money(self, value: Any, currency: str) -> str:
        """An amount in a currency (``EUR``, ISO 4217), with as many decimals as that one has."""
        if not isinstance(currency, str) or not numbers.is_currency(currency):
            raise Refusal("money takes the code of a currency, as EUR (ISO 4217)")
        return numbers.format_currency(_amount(value), currency, locale=self._locale)

    def plural(self, value: Any, **forms: str) -> str:
        """The form that goes with a number: ``n|plural(one="letter", other="letters")``.

        Forms are named as in CLDR (zero, one, two, few, many, other); `other` stands in for one not given. It
        is the one that goes with what `number` writes, which has no zeros at the end: 1.0 is one letter.
        """
        amount = _amount(value)
        whole = amount.to_integral_value()
        category = self._locale.plural_form(int(whole) if amount == whole else amount.normalize())
        form = forms.get(category, forms.get("other"))
        if form is None:
            raise Refusal(f"plural has no form '{category}', which {self._locale.language} needs here")
        return form


def _remembered(function: Callable[..., str]) -> Callable[..., str]:
    """`function`, which keeps its last words: a text says what the HTML said, and many letters say the same.

    Four amounts and dates took 250 µs a letter without it, and 65 with it.
    """
    known = lru_cache(maxsize=REMEMBERED, typed=True)(function)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> str:
        try:
            hash((args, *kwargs.values()))
        except TypeError:  # a list or an object, which `function` refuses
            return function(*args, **kwargs)
        return known(*args, **kwargs)

    return run


def _amount(value: Any) -> Decimal:
    if isinstance(value, Undefined):
        str(value)  # raises
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refusal(f"{kind_of(value)} is no number")
    try:
        text = str(value)
        amount = Decimal(text if len(text) <= MAX_PATTERN else "")
    except (InvalidOperation, ValueError):
        raise Refusal("this is no number") from None
    if not amount.is_finite() or (amount and not -MAX_PATTERN < amount.adjusted() < MAX_DIGITS):
        raise Refusal(f"a number has at most {MAX_DIGITS} digits before the point")
    return amount or amount.copy_abs()  # a zero has no sign: -0.0 is equal to 0.0


def _decimals(count: int) -> str:
    if not isinstance(count, int) or not 0 <= count <= MAX_DECIMALS:
        raise Refusal(f"decimals are 0 to {MAX_DECIMALS}")
    return "." + "0" * count if count else ""


def _moment(value: Any, zone: str | None) -> datetime:
    """A date or time of ISO 8601; without a zone of its own it is in UTC where `zone` asks.

    A date alone is the same day in any zone: it is no moment that could be moved.
    """
    if isinstance(value, Undefined):
        str(value)  # raises
    if not isinstance(value, str) or len(value) > MAX_PATTERN:
        raise Refusal("a date is a text as 2026-11-29 or 2026-11-29T14:57:00Z (ISO 8601)")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Refusal("a date is a text as 2026-11-29 or 2026-11-29T14:57:00Z (ISO 8601)") from None
    if zone is None:
        return moment
    if not isinstance(zone, str) or len(zone) > MAX_PATTERN:
        raise Refusal("a zone is a name as Europe/Moscow")
    try:
        there = dates.get_timezone(zone)
    except (LookupError, ValueError, OSError):  # a folder of zones, or a path
        raise Refusal("a zone is a name as Europe/Moscow") from None
    if _is_date(value):
        return moment.replace(tzinfo=there)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=dates.UTC)).astimezone(there)
    except OverflowError:
        raise Refusal("the date is out of reach") from None


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _style(style: str) -> Any:
    if not isinstance(style, str) or len(style) > MAX_PATTERN:
        raise Refusal("a style is short, medium, long, full or a pattern of at most 64 characters")
    return style
