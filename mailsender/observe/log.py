"""Structured logs: one event a line, with a stable name, the same form for ours and the libraries'.

JSON when the stream is not a terminal; there, aligned text. Events go to standard error, so that what a
command prints stays apart from what it logs.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TextIO, cast
from urllib.parse import quote, quote_plus

import structlog
from structlog.types import EventDict, ExcInfo, Processor, WrappedLogger

from mailsender.observe.safejson import to_json

REDACTED: Final = "[secret]"
"""What stands in a log where a secret would have stood."""

SHORTEST_SECRET: Final = 4
"""Characters; redacting shorter values would only make the log unreadable and tell their places."""

LONG: Final = 8
CERTAIN: Final = 16
"""Characters from which no word, or not even one of letters alone, is taken for a secret by chance."""

QUIET: Final = 60.0
"""Seconds in which a library's message of one kind is logged once."""

KINDS: Final = 512
"""Kinds of library messages that the throttle remembers."""

_CHAIN: Final = 20
"""Exceptions of one chain, or of one group, that are rendered."""

_QUOTES_DATA: Final = frozenset(
    {
        *("BulkWriteError", "ClientBulkWriteException", "WriteError", "DuplicateKeyError"),
        *("InvalidDocument", "InvalidStringData", "InvalidBSON", "DocumentTooLarge"),
        *("ValidationError", "UnicodeDecodeError", "UnicodeEncodeError", "JSONDecodeError"),
    }
)
"""Exceptions whose text repeats what was being written or read: letters, that is."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Stream(Protocol):
    """What events are written to."""

    def write(self, text: str, /) -> object:
        """Take a line."""
        ...

    def flush(self) -> object:
        """Keep nothing back."""
        ...

    def isatty(self) -> bool:
        """Whether a person reads along."""
        ...


def configure(
    level: str = "info",
    style: str = "auto",
    *,
    secrets: Iterable[str] = (),
    stream: Stream | None = None,
) -> None:
    """Set up logging for the whole process; the last call counts.

    Args:
        level: least level that is logged; calls below it cost next to nothing.
        style: ``json``, ``console``, or ``auto``: the latter on a terminal, else the former.
        secrets: values that must never be seen, see `Settings`.
        stream: where to write; standard error by default.
    """
    stream = stream or sys.stderr
    renderer = _renderer(style, stream)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(render_exception),
        Redactor(secrets),
    ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", stream)),
        cache_logger_on_first_use=True,
    )
    _configure_libraries(level, stream, shared, renderer)


def _configure_libraries(
    level: str, stream: Stream, shared: list[Processor], renderer: list[Processor]
) -> None:
    """Send what libraries log the same way.

    They stay a level behind ours and never reach debug: there, drivers write whole documents and
    records, and those hold letters.
    """
    handler = logging.StreamHandler(stream)
    handler.addFilter(Throttle())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_library_event],
            processors=[*shared, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "mailsender", False):
            root.removeHandler(old)
    handler.mailsender = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    ours = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(ours, logging.WARNING) if ours > logging.DEBUG else logging.INFO)
    # One line a request tells an operator nothing and a stranger's addresses to every reader of the log.
    logging.getLogger("aiohttp.access").disabled = True


def _renderer(style: str, stream: Stream) -> list[Processor]:
    if style == "json" or (style == "auto" and not stream.isatty()):
        return [structlog.processors.JSONRenderer(serializer=_serialize)]
    return [
        _escape_controls,
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            timestamp_key="time",
            # Exceptions come here rendered, so that redaction has seen them.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _serialize(event: EventDict, **_: Any) -> str:
    head = {name: event[name] for name in ("time", "level", "event") if name in event}
    return to_json({**head, **event})


def _name_library_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A library's text is no stable name: it moves to `text`, beside the name of its logger."""
    event["text"] = event["event"]
    event["event"] = "library_message"
    event["logger"] = event["_record"].name
    return event


def _escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show control characters as escapes: text from a relay must not steer the reader's terminal."""
    return {
        key: _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value) if isinstance(value, str) else value
        for key, value in event.items()
    }


# --- secrets -------------------------------------------------------------------------------------


def _may_be_a_word(secret: str) -> bool:
    """Whether a secret may stand in a sentence by chance: a name, a word, a number."""
    return len(secret) < CERTAIN and (secret.isalpha() or secret.isdigit() or len(secret) < LONG)


class Redactor:
    """A processor that blots out known secrets wherever they turn up.

    Secrets are kept out where they come from: drivers' texts about URIs are not repeated, settings do not
    show them. This is for the day when something quotes one all the same. Forms that are covered: as it is,
    as in a URI, and in base64 as AUTH sends it (RFC 4954).

    One that may be an ordinary word is only looked for where a password stands, behind a colon or an equals
    sign: blotted out in our own sentences it would tell what it is.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        words: set[str] = set()
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                forms.add(base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode())
                plain = {secret, quote_plus(secret, errors="replace"), quote(secret, "", errors="replace")}
                (words if _may_be_a_word(secret) else forms).update(plain)
        # The longest first: one secret may be the beginning of another.
        patterns = [re.escape(form) for form in sorted(forms, key=len, reverse=True)]
        patterns += [rf"(?<=[:=]){re.escape(word)}(?![\w ])" for word in sorted(words, key=len, reverse=True)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """See `structlog.types.Processor`."""
        if self._pattern is None:
            return event
        return {
            key: value if key.startswith("_") else self._clean(value, depth=4) for key, value in event.items()
        }

    def text(self, text: str) -> str:
        """`text` without the secrets."""
        return self._pattern.sub(REDACTED, text) if self._pattern else text

    def _clean(self, value: Any, depth: int) -> Any:
        assert self._pattern is not None  # noqa: S101  for the type checker: __call__ has looked
        if isinstance(value, str):
            return self._pattern.sub(REDACTED, value)
        if isinstance(value, int | float | None):
            return value
        if isinstance(value, dict) and depth:
            return {key: self._clean(item, depth - 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth:
            return [self._clean(item, depth - 1) for item in value]
        return self._pattern.sub(REDACTED, str(value))


# --- exceptions ----------------------------------------------------------------------------------


def render_exception(exc_info: ExcInfo) -> str:
    """The traceback of an exception and of what caused it, without the text of those that quote letters."""
    return "\n".join(_rendered(exc_info[1], depth=3))


def _rendered(error: BaseException, depth: int) -> Iterator[str]:
    for index, link in enumerate(_chain(error)):
        if index:
            yield "which led to:"
        yield "".join(traceback.format_tb(link.__traceback__)).rstrip() or "(no traceback)"
        yield _headline(link)
        if isinstance(link, BaseExceptionGroup) and depth:
            for number, inner in enumerate(link.exceptions[:_CHAIN], 1):
                yield f"--- {number} of {len(link.exceptions)} in the group:"
                yield from _rendered(inner, depth - 1)


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and what came before it, the first cause first, each once."""
    links: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in links and len(links) < _CHAIN:
        links.append(following)
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context
    return links[::-1]


def _headline(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if any(base.__name__ in _QUOTES_DATA for base in kind.__mro__):
        return f"{name}: (text left out, it may quote a letter)"
    return f"{name}: {error}"


# --- libraries -----------------------------------------------------------------------------------


class Throttle(logging.Filter):
    """Lets a library's message of one kind through once in `QUIET` seconds, with how many it held back.

    A broker that is down makes a client log thousands of lines a minute. The kind is the logger and
    the text before its arguments are put in.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        now = self._monotonic()
        kind = (record.name, str(record.msg))
        since, held = self._seen.get(kind, (float("-inf"), 0))
        if now - since < QUIET:
            self._seen[kind] = (since, held + 1)
            return False
        self._seen.pop(kind, None)
        if len(self._seen) >= KINDS:
            del self._seen[next(iter(self._seen))]
        self._seen[kind] = (now, 0)
        if held:
            record.msg = f"{record.getMessage()} (and {held} more of the kind)"
            record.args = ()
        return True
