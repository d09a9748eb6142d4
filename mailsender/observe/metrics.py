"""Every metric, once: its name, its meaning, its unit and its labels, with all that a label may be.

A number is counted by the part that does the work, in a field of its own: an increment there costs next to
nothing, and `/status` and the `summary` line read the same field. Metrics are read from there when somebody
asks, by `mailsender.admin.readings`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from mailsender.model.letter import Letter, Phase

PREFIX: Final = "mailsender_"

PARTITIONS: Final = 100
"""Partitions whose lag is told, those with the greatest first: more would make each scrape a long one."""

CALL: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds that calls to MongoDB and Kafka take: from one on the same machine to one that outlasts an
outage."""

AGES: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Seconds from a record to what became of it: from next to nothing to a day in the queue."""


class Times:
    """How often something took how long, in the buckets of a histogram; `bounds` are in seconds."""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float] = CALL) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def __len__(self) -> int:
        return sum(self._counts)

    def note(self, seconds: float, times: int = 1) -> None:
        """It took so long, so many times. Less than nothing, by two clocks that disagree, is nothing."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    def note_since_records(self, letters: Iterable[Letter], now: float) -> None:
        """What is true of letters since `now`, in epoch seconds, took so long since their records were made.

        Letters of one record that stand together are noted at once.
        """
        made, count = -1, 0
        for letter in letters:
            origin = letter.answers[0].origin if letter.answers else None
            timestamp = origin.timestamp if origin is not None else -1
            if timestamp == made:
                count += 1
                continue
            if made >= 0:
                self.note(now - made / 1000, count)
            made, count = timestamp, 1
        if made >= 0:
            self.note(now - made / 1000, count)

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with how often it took no longer, as the library wants them."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


Value: TypeAlias = float | Times | Mapping[str, float] | Mapping[tuple[str, ...], float] | None
"""What a metric is now: by the value of its label, or the values of its labels, where it has some; None where
it is not known."""

ANY_RELAY: Final = "a relay's name"
ANY_DESTINATION: Final = "a domain, or `*.` and one, that has limits in the file"
ANY_PARTITION: Final = f"a partition of the in-topic; at most {PARTITIONS}, those with the greatest lag"
ANY_TOPIC: Final = "the in-topic"

STAGES: Final = tuple([each for each in Phase if each is not Phase.INTAKE])

REPLIES: Final = ("2xx", "4xx", "5xx", "other", "none")
"""Classes of replies, by their first digit; `none` where the connection was lost or nothing was said."""

SCOPES: Final = ("relay", "login", "destination", "sender", "recipient")
"""What an order covers."""

PARTS: Final = (
    "mongodb",
    "kafka",
    "slots",
    "journal",
    "relay",
    "quota",
    "rate",
    "destination",
    "route",
    "queue",
)
"""What `/status` names as the part of a condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A metric. `labels` has, for each label, what it may be: all values, or a word about a bounded set."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    unit: str
    labels: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Its name as it is scraped."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")

    def family(self, value: Value) -> Metric:
        """The metric with its value, as the library wants it."""
        name, labels = PREFIX + self.name, tuple(self.labels)
        unit = self.unit if name.endswith(f"_{self.unit}") else ""
        if isinstance(value, Times):
            return HistogramMetricFamily(name, self.meaning, value.buckets(), value.total, unit=unit)
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(name, self.meaning, labels=labels, unit=unit)
        rows = value if isinstance(value, Mapping) else {} if value is None else {(): value}
        for row, number in rows.items():
            family.add_metric((row,) if isinstance(row, str) else row, number)
        return family


ALL: Final[dict[str, Definition]] = {}
"""Every metric by its name, in the order of the page."""


def _metric(
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    unit: str,
    meaning: str,
    **labels: tuple[str, ...] | str,
) -> Definition:
    ALL[name] = made = Definition(name=name, kind=kind, meaning=meaning, unit=unit, labels=labels)
    return made


# --- what comes in -------------------------------------------------------------------------------

RECORDS = _metric("counter", "records", "records", "Records read from the in-topic.")
RECORDS_LOST = _metric(
    "counter", "records_lost", "records", "Records that the broker deleted before they were read."
)
DEAD_LETTERS = _metric(
    "counter",
    "dead_letters",
    "records",
    "Records that went to the dead-letter topic.",
)
LETTERS_IN = _metric(
    "counter",
    "letters_in",
    "letters",
    "Letters of records that were stored: taken in to be sent, or refused for what is in them. Those that"
    " were known already are among them.",
    result=("taken", "refused"),
)
LETTERS_KNOWN = _metric(
    "counter",
    "letters_known",
    "letters",
    "Letters that were in the queue already: the same record again, another publisher's, or an ID with other"
    " content.",
    how=("replay", "joined", "clash"),
)
LAG = _metric(
    "gauge",
    "consumer_lag",
    "records",
    "Records of a partition of ours behind the last that was read.",
    topic=ANY_TOPIC,
    partition=ANY_PARTITION,
)
INSERT = _metric(
    "histogram", "insert_seconds", "seconds", "Time until a batch of letters was durable, tries included."
)

# --- what waits ----------------------------------------------------------------------------------

WAITING = _metric(
    "gauge",
    "letters_waiting",
    "letters",
    "Letters in the queue that nobody has claimed: due, or waiting for a time of their own. For all"
    " replicas.",
    reason=("due", "later"),
)
OLDEST_WAITING = _metric(
    "gauge",
    "oldest_waiting_seconds",
    "seconds",
    "For how long the letter that should have gone first has been waiting beyond its time.",
)
UNREPORTED = _metric(
    "gauge",
    "letters_unreported",
    "reports",
    "Reports in the outbox that are still to come. For all replicas.",
)
OLDEST_UNREPORTED = _metric(
    "gauge",
    "oldest_unreported_seconds",
    "seconds",
    "For how long the oldest entry of the outbox has been there.",
)
COUNTS_AGE = _metric(
    "gauge", "queue_counts_age_seconds", "seconds", "For how long what waits has not been counted anew."
)
IN_FLIGHT = _metric(
    "gauge", "in_flight_letters", "letters", "Letters claimed by this replica and not settled."
)
IN_FLIGHT_BYTES = _metric("gauge", "in_flight_bytes", "bytes", "The same, by their size.")
HELD_BYTES = _metric(
    "gauge",
    "held_bytes",
    "bytes",
    "Bytes of letters in memory behind their settlement: on their way to the publisher, or waiting there for"
    " their report.",
    by=("settler", "publisher"),
)

# --- what goes out -------------------------------------------------------------------------------

CLAIM = _metric(
    "histogram",
    "claim_seconds",
    "seconds",
    "Time that a claim took which MongoDB answered. Fresh letters come claimed by their insert.",
)
ATTEMPTS = _metric(
    "counter",
    "attempts",
    "recipients",
    "Recipients in transactions, by the stage that decided and the class of the relay's reply.",
    relay=ANY_RELAY,
    stage=STAGES,
    reply=REPLIES,
)
SESSIONS_REFUSED = _metric(
    "counter",
    "sessions_refused",
    "sessions",
    "Sessions that could not be opened, by the stage at which it ended.",
    relay=ANY_RELAY,
    stage=STAGES,
)
RELAY_GOES = _metric(
    "gauge",
    "relay_goes",
    "0 or 1",
    "Whether letters go over a relay now, its rate aside: it can be reached, does not hang, does not refuse"
    " everybody, did not order to wait, and has quota and slots.",
    relay=ANY_RELAY,
)
SESSIONS_OPEN = _metric("gauge", "sessions_open", "sessions", "Sessions with a relay.", relay=ANY_RELAY)
SESSIONS_BUSY = _metric(
    "gauge", "sessions_busy", "sessions", "Those of them that carry something.", relay=ANY_RELAY
)
SLOTS_GRANTED = _metric(
    "counter", "slots_granted", "slots", "Slots leased for this replica.", relay=ANY_RELAY
)
SLOTS_LAPSED = _metric(
    "counter", "slots_lapsed", "slots", "Slots whose time was over before anybody took them.", relay=ANY_RELAY
)
SLOTS_AWAITED = _metric(
    "counter", "slots_awaited", "slots", "Slots that a sender had to wait for.", relay=ANY_RELAY
)
SLOT_WAITERS = _metric(
    "gauge", "slot_waiters", "senders", "Senders that wait for a slot now.", relay=ANY_RELAY
)
QUOTA_LEFT = _metric(
    "gauge",
    "quota_left",
    "transactions",
    "Transactions that the daily quota still allows all replicas; absent without a quota, and until it is"
    " known.",
    relay=ANY_RELAY,
)

DESTINATION_WAITERS = _metric(
    "gauge",
    "destination_slot_waiters",
    "senders",
    "Senders that wait for the turn of a destination that has limits of its own.",
    relay=ANY_RELAY,
    destination=ANY_DESTINATION,
)
ORDERS = _metric(
    "gauge",
    "orders",
    "orders",
    "What replies asked for beyond their letters and is in force, as this replica knows it.",
    relay=ANY_RELAY,
    scope=SCOPES,
)

# --- what it came to -----------------------------------------------------------------------------

OUTCOMES = _metric(
    "counter",
    "outcomes",
    "letters",
    "Letters settled as `sent` or as `error`, those that ended at intake among them; times that one was"
    " `deferred`; and attempts with a recipient of whom it is `uncertain` whether it was accepted.",
    outcome=("sent", "error", "deferred", "uncertain"),
)
SUPPRESSED = _metric(
    "counter",
    "suppressed",
    "recipients",
    "Recipients to whom a letter was not sent: they were on the suppression list.",
)
SUPPRESSIONS = _metric(
    "counter",
    "suppression_changes",
    "addresses",
    "What replies changed on the suppression list: refusals that were `learned`, entries that a success"
    " `lifted`, and refusals that were `forgotten`, for too many waited to be written.",
    change=("learned", "lifted", "forgotten"),
)
RELEASED = _metric("counter", "letters_released", "letters", "Letters given back as they were claimed.")
LATE = _metric(
    "counter", "settlements_late", "letters", "Outcomes that changed nothing: another replica had the letter."
)
RECOVERED = _metric(
    "counter", "letters_recovered", "letters", "Letters settled by what a process that died had written down."
)
LOST = _metric(
    "counter", "letters_lost", "letters", "Letters lost to others: this replica was declared dead."
)
RECLAIMED = _metric(
    "counter", "letters_reclaimed", "letters", "Letters of dead replicas that this one gave back."
)
SETTLE = _metric(
    "histogram", "settle_seconds", "seconds", "Time until a batch of outcomes was written, tries included."
)
ACCEPTANCE = _metric(
    "histogram",
    "record_to_acceptance_seconds",
    "seconds",
    "From a record's timestamp until its letter was settled as `sent`.",
)
REPORTS = _metric(
    "counter",
    "reports",
    "reports",
    "Reports that were published, and those that the broker will never take.",
    result=("published", "given_up"),
)
SWEPT = _metric("counter", "reports_swept", "letters", "Letters that the sweep found in the outbox.")
REPORTS_WAITING = _metric(
    "gauge",
    "reports_waiting",
    "letters",
    "Letters in memory whose reports are to come or to be acknowledged.",
)
REPORT = _metric(
    "histogram",
    "report_seconds",
    "seconds",
    "Time that Kafka took for a batch of reports, failed ones included.",
)
TO_REPORT = _metric(
    "histogram",
    "record_to_report_seconds",
    "seconds",
    "From a record's timestamp until its letter's report was acknowledged.",
)

# --- how the replica is --------------------------------------------------------------------------

READY = _metric("gauge", "ready", "0 or 1", "Whether the service does its work: what `/readyz` says.")
CONDITION = _metric(
    "gauge",
    "condition",
    "0 or 1",
    "Whether this part keeps letters waiting now: `waits_for` of `/status`.",
    part=PARTS,
)
STALLS = _metric("counter", "loop_stalls", "stalls", "Times that the event loop stood still for over 0.1 s.")
LONGEST_STALL = _metric(
    "gauge", "loop_longest_stall_seconds", "seconds", "The longest of them since the start."
)
LIMITS_HIT = _metric(
    "counter",
    "limits_hit",
    "times",
    "Times that a limit was reached: a post refused for QUEUE_MAX_LETTERS, claiming held up by letters in"
    " flight, sending by outcomes that are not written, a report left to the sweep, the daily quota used up.",
    limit=("queue_max_letters", "bytes_in_flight", "unsettled", "report_bytes", "daily_quota"),
)


class Metrics:
    """The metrics of one replica; `read` gives each with its value."""

    def __init__(self, read: Callable[[], Iterable[tuple[Definition, Value]]]) -> None:
        self._read = read
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read when the registry is made: parts may be missing still."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        for definition, value in self._read():
            yield definition.family(value)

    def text(self, accept: str) -> tuple[bytes, str]:
        """What a scraper gets, and its Content-Type: OpenMetrics where it takes that, else text 0.0.4.

        It takes 1.4 ms of the loop, as measured, and 2.4 ms with the lag of `PARTITIONS`.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def reply_class(code: int | None) -> str:
    """The class of a reply, of `REPLIES`."""
    if code is None:
        return "none"
    found = f"{code // 100}xx"
    return found if found in REPLIES else "other"


def table() -> Iterator[str]:
    """The rows of docs/reference/metrics.md, with their head."""
    yield "| metric | kind | unit | labels | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for each in ALL.values():
        labels = "; ".join(f"`{name}`: {_values(values)}" for name, values in each.labels.items())
        yield f"| `{each.shown}` | {each.kind} | {each.unit} | {labels} | {each.meaning} |"


def _values(values: tuple[str, ...] | str) -> str:
    return values if isinstance(values, str) else ", ".join(f"`{each}`" for each in values)
