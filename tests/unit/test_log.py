"""Logs: their form, what they cost when they are off, and what never stands in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from pymongo.errors import BulkWriteError

from mailsender.observe.log import KINDS, QUIET, REDACTED, Redactor, Throttle, configure, render_exception


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiohttp.access").disabled = False


Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logged(stream: io.StringIO) -> Logged:
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_json_with_utc_time(stream: io.StringIO, logged: Logged) -> None:
    configure("info", "json", stream=stream)
    before = datetime.now(UTC)
    structlog.get_logger().info("letters_stored", count=3, topic="тема")
    [event] = logged()
    assert event["event"] == "letters_stored"
    assert list(event)[:3] == ["time", "level", "event"], "what a reader looks for first stands first"
    assert event["level"] == "info"
    assert event["count"] == 3
    assert "тема" in stream.getvalue()
    assert event["time"].endswith("Z")
    assert before <= datetime.fromisoformat(event["time"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("style", "make", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_the_form_follows_the_terminal_unless_said_otherwise(
    style: str, make: type[io.StringIO], is_json: bool
) -> None:
    stream = make()
    configure("info", style, stream=stream)
    structlog.get_logger().info("started")
    assert stream.getvalue().startswith("{") is is_json
    assert "started" in stream.getvalue()


def test_below_the_level_nothing_is_even_evaluated(stream: io.StringIO) -> None:
    configure("warning", "json", stream=stream)
    log = structlog.get_logger()

    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    log.info("letter_sent", letter=Costly())
    log.debug("letter_sent", letter=Costly())
    assert stream.getvalue() == ""
    log.warning("relay_away")
    assert "relay_away" in stream.getvalue()


def test_libraries_log_in_the_same_form(stream: io.StringIO, logged: Logged) -> None:
    configure("info", "json", stream=stream)
    logging.getLogger("library.conn").warning("Unable to connect to %s", "kafka:9092")
    [event] = logged()
    assert event["event"] == "library_message"
    assert event["logger"] == "library.conn"
    assert event["text"] == "Unable to connect to kafka:9092"
    assert event["level"] == "warning"


@pytest.mark.parametrize("level", ["debug", "info"])
def test_libraries_never_reach_debug(stream: io.StringIO, level: str) -> None:
    configure(level, "json", stream=stream)
    logging.getLogger("pymongo.command").debug("a whole document")
    logging.getLogger("aiohttp.access").error("GET /letters")
    assert stream.getvalue() == ""


def test_configuring_again_does_not_double_the_lines(stream: io.StringIO, logged: Logged) -> None:
    configure("info", "json", stream=io.StringIO())
    configure("info", "json", stream=stream)
    logging.getLogger("library").error("once")
    assert len(logged()) == 1


def test_a_value_that_json_cannot_hold_does_not_break_the_log(stream: io.StringIO, logged: Logged) -> None:
    configure("info", "json", stream=stream)
    log = structlog.get_logger()
    log.info("odd", surrogate="\ud800", huge=10**40, key=b"\xff", when=datetime(2026, 1, 2, tzinfo=UTC))
    log.info("odd", nested={1: {2: object()}})
    assert [event["event"] for event in logged()] == ["odd", "odd"]
    assert logged()[0]["huge"] == 10**40


def test_secrets_are_blotted_out_wherever_they_stand(stream: io.StringIO) -> None:
    configure("info", "json", stream=stream, secrets=["p@ss word", "tiny", ""])
    log = structlog.get_logger()
    log.info("p@ss word", plain="x p@ss word y", nested={"a": ["p@ss word"]}, raw=b"p@ss word")
    log.info("uri", uri="mongodb://u:p%40ss+word@h/", other="u:p%40ss%20word", auth="cEBzcyB3b3Jk")
    log.error("failed", exc_info=ValueError("p@ss word"))
    logging.getLogger("lib").error("with %s", "p@ss word", exc_info=ValueError("p@ss word"))
    text = stream.getvalue()
    assert text.count(REDACTED) >= 9
    assert [form for form in ("p@ss", "p%40ss", "cEBzcyB3b3Jk") if form in text] == []


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    redacted = Redactor(["secret", "secret-longer"])(None, "", {"event": "secret-longer"})
    assert redacted == {"event": REDACTED}


@pytest.mark.parametrize("secret", ["password", "wrong", "relay", "running", "587", "secret", "1234567890"])
def test_a_secret_that_is_a_word_does_not_give_itself_away(secret: str) -> None:
    event = {
        "event": "running",
        "error": "the password is wrong, says the relay at port 587; a secret, 1234567890 times: wrong",
    }
    assert Redactor([secret])(None, "", dict(event)) == event


@pytest.mark.parametrize("secret", ["password", "hunter2", "tiny"])
def test_a_secret_that_is_a_word_is_blotted_out_where_a_password_stands(secret: str) -> None:
    redactor = Redactor([secret])
    for text in (f"mongodb://user:{secret}@host/", f"SMTP_PASSWORD={secret}", f"'password':{secret}, more"):
        assert secret not in redactor.text(text).replace("'password'", "").replace("SMTP_PASSWORD", "")
        assert REDACTED in redactor.text(text)


def test_too_short_secrets_are_left_alone() -> None:
    assert Redactor(["a", ""])(None, "", {"event": "a cat"}) == {"event": "a cat"}


def test_numbers_stay_numbers_under_redaction() -> None:
    event = {"event": "x", "count": 1234, "share": 0.5, "flag": True, "none": None}
    assert Redactor(["1234"])(None, "", dict(event)) == event


def rendered(error: BaseException) -> str:
    return render_exception((type(error), error, error.__traceback__))


def test_a_traceback_shows_the_causes_first_and_no_locals() -> None:
    body = "the-body-of-a-letter"

    def fail(hidden: str) -> None:
        raise RuntimeError("outer") from KeyError("inner" if hidden else "")

    with pytest.raises(RuntimeError) as caught:
        fail(body)
    text = render_exception((caught.type, caught.value, caught.tb))
    assert text.index("KeyError: 'inner'") < text.index("which led to:") < text.index("RuntimeError: outer")
    assert "test_log.py" in text
    assert body not in text


def test_exceptions_that_quote_letters_lose_their_text() -> None:
    error = BulkWriteError({"writeErrors": [{"op": {"body": "BODY", "addresses": ["a@example.test"]}}]})
    assert "BODY" in str(error)
    text = rendered(error)
    assert "BulkWriteError" in text
    assert "BODY" not in text
    assert "example.test" not in text


def test_a_group_of_exceptions_shows_each() -> None:
    text = rendered(ExceptionGroup("tasks", [ValueError("one"), ExceptionGroup("more", [OSError("two")])]))
    assert "ValueError: one" in text
    assert "OSError: two" in text


def test_a_chain_that_is_a_ring_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert rendered(first).count("ValueError: first") == 1


def test_control_characters_do_not_reach_a_terminal() -> None:
    stream = Terminal()
    configure("info", "console", stream=stream)
    structlog.get_logger().warning("relay_refused", text="550 \x1b]0;owned\x07 no\r\n250 ok")
    assert "\x1b]0" not in stream.getvalue()
    assert "\\x1b]0" in stream.getvalue()
    assert "\r" not in stream.getvalue()


def record(text: str, *args: object, name: str = "library.conn") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, text, args, None)


def test_a_library_that_repeats_itself_is_heard_once_in_a_while() -> None:
    now = 0.0
    throttle = Throttle(monotonic=lambda: now)
    assert throttle.filter(record("down: %s", "a"))
    assert not any(throttle.filter(record("down: %s", "b")) for _ in range(8000))
    assert throttle.filter(record("something else"))
    assert throttle.filter(record("down: %s", "a", name="aiokafka.client"))
    now = QUIET
    later = record("down: %s", "c")
    assert throttle.filter(later)
    assert later.getMessage() == "down: c (and 8000 more of the kind)"


def test_the_throttle_remembers_a_bounded_number_of_kinds() -> None:
    throttle = Throttle(monotonic=lambda: 0.0)
    for number in range(KINDS * 2):
        assert throttle.filter(record(f"kind {number}"))
    assert len(throttle._seen) == KINDS
