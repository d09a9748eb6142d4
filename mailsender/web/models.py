"""What the HTTP side answers: one model for each form of answer, from which its description is made too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from mailsender.model.letter import MOST_PAST
from mailsender.web.template_models import TemplateFaultView

_CLOSED = ConfigDict(frozen=True, extra="forbid")

LetterId = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{24}$"})]
"""24 hex digits, as answers write them."""

Count = Annotated[int, Field(ge=0)]


class FaultView(BaseModel):
    """One thing that is wrong with a batch."""

    model_config = _CLOSED

    index: Count = Field(description="The letter's place in the array, from 0; of one that came alone 0.")
    field: str = Field(description="The key at fault, such as `Addresses`; empty for the letter as a whole.")
    pointer: str = Field(
        description="The same place in the body, as a JSON Pointer in a URI fragment (RFC 6901 §6)."
    )
    text: str = Field(description="What is wrong, for a person.")


class BlobView(BaseModel):
    """A content that is stored."""

    model_config = _CLOSED

    ref: str = Field(description="What a letter's attachment names it by.", pattern="^sha256:[0-9a-f]{64}$")
    bytes: Count = Field(description="How many bytes it has.")
    kept_until: datetime = Field(description="Until then at least; for longer while a letter names it.")


class RecipientView(BaseModel):
    """One recipient, with the last that was heard about it."""

    model_config = _CLOSED

    address: str
    verdict: Literal["accepted", "deferred", "refused", "uncertain"] | None = Field(
        description="What the last attempt came to; null before the first one."
    )
    uncertain: bool = Field(description="An attempt was lost after its end: it may have arrived from it.")
    phase: str | None = Field(None, description="The step that decided.")
    code: int | None = Field(None, description="SMTP reply code (RFC 5321).")
    enhanced: str | None = Field(None, description="Enhanced status code (RFC 3463).")
    text: str | None = Field(None, description="One line for a person.")
    rule: str | None = Field(
        None, description="The reply rule that decided; empty where the relay was taken at its word."
    )
    relay: str = Field(
        "",
        description="The relay that said so, or that was asked last, named as in the file or as `host:port`.",
    )
    next_try: datetime | None = Field(
        None, description="When it may be tried next, while the letter is `awaiting` and it is not done with."
    )


class AttemptView(BaseModel):
    """What one attempt came to."""

    model_config = _CLOSED

    at: datetime | None = Field(description="When it was over; null where only its traces were found.")
    relay: str = Field(description="The relay that was asked, named as in the file or as `host:port`.")
    verdict: Literal["accepted", "deferred", "refused", "uncertain"] = Field(
        description="What decided about the letter."
    )
    phase: str = Field(description="The step that decided.")
    code: int | None = Field(description="SMTP reply code (RFC 5321).")
    enhanced: str | None = Field(description="Enhanced status code (RFC 3463).")
    text: str = Field(description="The beginning of what was said.")
    rule: str = Field(description="The reply rule that decided; empty where the relay was taken at its word.")
    recipients: Count = Field(description="How many recipients something was said about.")
    accepted: Count = Field(description="How many of them were accepted.")
    seconds: float | None = Field(description="How long it took; null where that is not known.")
    tls: str = Field(description="The version of TLS, such as `TLSv1.3`; empty for none, or unknown.")


class OriginView(BaseModel):
    """The place on the in-topic that a letter came from."""

    model_config = _CLOSED

    topic: str
    partition: Count
    offset: Count
    index: Count = Field(description="The letter's place in the batch, from 0.")


class LetterView(BaseModel):
    """What became of one letter. No body, no subject, no token: each of them may hold a secret."""

    model_config = _CLOSED

    id: LetterId
    status: Literal["awaiting", "processing", "sent", "error"]
    route: str = Field(description="The route on which it waits, or that it took last.")
    wanted_route: str = Field(description="The route that it names (`Route`), or empty.")
    stream: str = Field(description="Its kind of mail, as its publisher says (`Stream`), or empty.")
    tags: list[str] = Field(description="Its publisher's labels (`Tags`).")
    priority: Literal["high", "normal", "low"] = Field(description="How much it matters (`Priority`).")
    retry: str = Field(description="The schedule that it brings (`Retry`), or empty: its route's.")
    not_before: datetime | None = Field(
        description="Before that it is not sent (`NotBefore`); null: at once."
    )
    expires: datetime | None = Field(
        description="After that it is not sent: its `ExpireAt`, or earlier by its route's `expire`; null: it"
        " has no such time."
    )
    suppression: Literal["", "ignore"] = Field(
        description="What it says of the suppression list (`Suppression`), or empty: it obeys the list."
        " Whether it may ignore it says its stream."
    )
    attempts: Count = Field(description="How often sending was begun.")
    reason: str = Field(description="Why it is an `error` where no relay decided; else empty.")
    relay: str = Field(
        description="The relay of the last attempt, named as in the file or as `host:port`, or empty."
    )
    message_id: str = Field(description="The same over all attempts; empty before the first one.")
    accepted_at: datetime | None = Field(
        description="When it was stored, in whole seconds; null where another program did so."
    )
    due: datetime | None = Field(
        description="While it is `awaiting`: when it may be tried next. In the past: it waits for"
        " what `waits_for` of `/status` says, for the rate, or for letters before it. `recipients` tell"
        " why the time is a later one."
    )
    finished_at: datetime | None = Field(description="When it became `sent` or `error`.")
    recipients: list[RecipientView]
    history: list[AttemptView] = Field(
        description=f"The last {MOST_PAST} attempts of a letter that took more than one, or waits for its"
        " next one, the oldest first; empty where one ended it, which `recipients` tell."
    )
    publishers: Count = Field(description="How many records brought it; each gets the report.")
    reported: bool = Field(description="Whether every publisher has its report.")
    body_omitted: bool = Field(
        description="Its body, texts and files are kept no longer: a report that is repeated is without them."
    )
    adopted: bool = Field(description="Another program had put it into the queue.")
    origin: OriginView | None = Field(description="Null for an adopted one.")


class Problem(BaseModel):
    """Why a request was not done, as problem details (RFC 9457)."""

    model_config = _CLOSED

    type: Literal["about:blank"] = Field(description="The title is the status's own phrase (§4.2.1).")
    title: str = Field(description="The status in words.")
    status: int = Field(ge=400, le=599, description="The status.")
    detail: str = Field(description="What is wrong, for a person.")
    reason: str = Field("", description="A word for programs that stays the same, such as `queue-full`.")
    errors: list[FaultView] = Field(
        [], description="Bad batches and letters: each fault with its place; at most 100."
    )
    faults: list[TemplateFaultView] = Field([], description="Bad templates: each fault; at most 100.")
    sample: list[dict[str, Any]] = Field(
        [], description="Bad batches and letters: what right letters look like."
    )
    ids: list[LetterId] = Field(
        [],
        description="`unconfirmed`, `forbidden`: the IDs with which the same letters can be posted again.",
    )
    id: str = Field("", description="Unexpected errors: the name under which the log explains it.")
    instance: str = Field("", description="The same as a URI.")
    letter: LetterView | None = Field(None, description="`refused`: what became of the letter.")


class PostedView(BaseModel):
    """Where a batch lies on the in-topic."""

    model_config = _CLOSED

    topic: str
    partition: Count
    offset: Count
    ids: list[LetterId] = Field(min_length=1, description="The IDs of the letters, in order.")


class SubmittedView(BaseModel):
    """One letter on the in-topic."""

    model_config = _CLOSED

    id: LetterId
    topic: str
    partition: Count
    offset: Count


class DryMessageView(BaseModel):
    """One message, as a relay that offers 8BITMIME and SMTPUTF8 would get it now."""

    model_config = _CLOSED

    person: str = Field(description="The one recipient of a personal letter's message; empty: all of them.")
    size: Count = Field(description="Its bytes.")
    text: str | None = Field(
        description="Its bytes as UTF-8, with CRLF at the ends of lines; null where the answer would become"
        " too large."
    )


class DryWayView(BaseModel):
    """A route that recipients of a letter would take."""

    model_config = _CLOSED

    route: str
    why: str = Field(description="Why it is this one.")
    relays: list[str] = Field(description="The names of its relays, those of its fallback behind the others.")
    recipients: Count = Field(description="How many take it.")


class DryLetterView(BaseModel):
    """What would become of one letter."""

    model_config = _CLOSED

    index: Count = Field(description="Its place in the array, from 0.")
    id: LetterId | None = Field(
        description="Null where it brings neither an ID nor a key: it gets one when it is posted, or from its"
        " place when it is published on the topic. Its Message-ID has zeros here."
    )
    route: str = Field(description="That on which it would wait first.")
    relays: list[str] = Field(description="Those of the route, in the order in which they are tried.")
    ways: list[DryWayView] = Field([], description="All routes that its recipients would take.")
    suppressed: list[str] | None = Field(
        [],
        description="Recipients to whom nothing would be sent, as they are on the suppression list; at most"
        " 100. Null: the list cannot be read now.",
    )
    reverse_path: str = Field(description="Where relays report that it cannot be delivered.")
    recipients: list[str] = Field(
        description="Who gets it, each once, whether the message shows it or not; at most 100."
    )
    recipients_left_out: Count = Field(description="Recipients beyond those.")
    messages: list[DryMessageView] = Field(description="One, or one for each recipient; at most 10.")
    messages_left_out: Count = Field(description="Messages beyond those.")


class DryRunView(BaseModel):
    """What would become of letters; nothing was published."""

    model_config = _CLOSED

    letters: Count = Field(description="How many there are.")
    faults: list[FaultView] = Field(
        description="What is wrong; with one fault nothing is posted. At most 100: what comes behind"
        " them was not looked at."
    )
    shown: list[DryLetterView] = Field(description="The first letters without a fault, at most 100.")


class QueueView(BaseModel):
    """Letters in the queue, of all replicas."""

    model_config = _CLOSED

    age_seconds: float = Field(
        ge=0, description="How old the counts are: older than some seconds while MongoDB does not answer."
    )
    awaiting: Count
    due: Count = Field(description="Those of `awaiting` that wait for no time of their own.")
    processing: Count
    sent: Count
    error: Count
    unreported: Count = Field(description="Finished letters whose report is still to be published.")
    oldest_due_seconds: float = Field(description="How long the oldest letter that could be sent waits.")
    in_hand: Count = Field(description="Letters in flight: claimed by this replica and not settled yet.")


class CountersView(BaseModel):
    """What this replica did since its start."""

    model_config = _CLOSED

    sent: Count
    error: Count
    deferred: Count
    released: Count = Field(description="Letters given back untried.")
    uncertain: Count = Field(description="Letters that a relay may have taken without our hearing its reply.")
    recovered: Count = Field(description="Letters settled from the journal of a process that died.")
    late_settlements: Count = Field(description="Outcomes that came after another replica had taken over.")
    letters_lost: Count = Field(description="Letters that were in flight here when others declared it dead.")
    letters_reclaimed: Count = Field(description="Letters of dead replicas that this one gave back.")


class RateView(BaseModel):
    """How fast all replicas together may send over the first of `relays`; these tell it of each."""

    model_config = _CLOSED

    letters: Count = Field(description="Transactions in a period; 0: no limit.")
    period_seconds: float
    burst: Count
    daily_quota: Count = Field(description="Transactions a day; 0: none.")
    quota_left: Count | None = Field(
        description="What all replicas together have left of it today, some seconds old; null without one,"
        " and until MongoDB has told."
    )
    waiting_until: datetime | None = Field(description="When the next day's quota begins, while one waits.")


class SessionsView(BaseModel):
    """SMTP sessions of this replica with a relay."""

    model_config = _CLOSED

    max: Count
    open: Count
    busy: Count
    slow: Count = Field(description="They wait for the reply to a message's end since longer than usual.")


class RelayView(BaseModel):
    """The relay, as this replica sees it."""

    model_config = _CLOSED

    name: str
    state: Literal["answers", "refuses", "hangs", "away", "not asked yet"] = Field(
        description="`refuses`: it takes nobody's letters, for a reason that is not theirs; they wait."
        " `hangs`: letters wait for it, and nothing moves."
    )
    trouble: str | None = Field(description="What it said, or why it cannot be reached.")
    phase: str | None = Field(description="The step at which it failed.")
    since: datetime | None = Field(description="Since when it is in this state.")
    again: datetime | None = Field(
        description="When it is tried again, while it is away or refuses letters; null once it is time."
    )
    remark: str | None = Field(description="What it is found to do otherwise than it says, and what follows.")


class RelayRateView(BaseModel):
    """One of a relay's rates; all of them hold."""

    model_config = _CLOSED

    letters: Count = Field(
        description="Transactions, or recipients where it counts them, in a period, over all replicas."
    )
    period_seconds: float
    letters_now: float = Field(
        ge=0, description="The same as far as a reply has not asked for less; 0: none."
    )


class DestinationView(BaseModel):
    """A destination for which a relay has limits of its own."""

    model_config = _CLOSED

    destination: str = Field(description="A domain, or `*.` and one: all below it together.")
    rates: list[RelayRateView]
    waiting: Count = Field(
        description="Recipients that wait for its turn, put off until then by this replica."
    )
    blocked_because: str | None = Field(description="Why nothing goes there now; null: it does.")


class OrderView(BaseModel):
    """What a relay's reply asked for beyond its letter, by a reply rule; all replicas obey it."""

    model_config = _CLOSED

    scope: str = Field(
        description="What it covers: `relay`, `destination:DOMAIN`, `sender:ADDRESS` or `login:MARK`, which"
        " is a user with a password, or a token, that the relay refused; it ends with that of `relay`, too."
        " `DELETE /relays/{relay}/orders/{scope}` ends it."
    )
    rule: str = Field(description="The rule by which it was read so.")
    said: str = Field(description="The reply.")
    holds: bool = Field(description="Nothing that it covers begins now.")
    until: datetime | None = Field(
        description="Until when that is, or was, so: of a `stop`, when a few letters try it. Null: without an"
        " end, which no rule orders."
    )
    pace: float = Field(ge=0, le=1, description="The part of the rate that is allowed now.")
    over: datetime | None = Field(
        description="When the rate is full again, if no such reply comes until then; null as `until`."
    )


class RelayDetailsView(RelayView):
    """A relay in full, as this replica sees it. `name` is its host and port."""

    relay: str = Field(description="Its name in the file of relays and routes; `default`: that of `SMTP_*`.")
    breaker: Literal["closed", "open", "probing"] = Field(
        description="`open`: no letters go to it, but for one that tries it now and then."
    )
    rates: list[RelayRateView]
    quota: Count = Field(
        description="Transactions, or recipients, in the quota's time, over all replicas; 0: none."
    )
    quota_left: Count | None = Field(description="What is left of it, some seconds old; null as in `rate`.")
    quota_until: datetime | None = Field(description="When there is some again, while it is used up.")
    sessions: SessionsView
    orders: list[OrderView] = Field(description="At most 20: that for the whole relay, then the longest.")
    orders_left_out: Count
    recipients_resting: Count = Field(
        description="Single recipients for whom a reply asked this replica to wait."
    )
    destinations: list[DestinationView] = Field(
        description="Those with limits of their own; at most 20, where most wait first."
    )
    destinations_left_out: Count


class LiftedOrderView(BaseModel):
    """An order of a relay's that holds no more."""

    model_config = _CLOSED

    relay: str
    scope: str
    rule: str = Field(description="The rule that ordered it; empty where this replica had not heard of it.")
    said: str = Field(description="The reply, or empty as `rule`.")
    until: datetime | None = Field(
        description="Until when it would have held; null: without an end, or as `rule`."
    )


class RouteView(BaseModel):
    """A route, as this replica sees it."""

    model_config = _CLOSED

    route: str
    relays: list[str] = Field(description="The names of its relays, and behind them those of its fallback.")
    blocked_because: str | None = Field(description="What keeps its letters waiting; null: nothing.")
    in_hand: Count = Field(
        description="Letters at hand: claimed by this replica, and waiting for their turn; a part of the"
        " queue's `in_hand`."
    )
    awaiting: Count | None = Field(
        description="Letters of it that wait, over all replicas; as old as `queue`, and null with it."
    )
    deferred: Count | None = Field(description="Those of them that wait for a time of their own.")
    oldest_due_seconds: float | None = Field(
        ge=0, description="How long the oldest of it waits that could be sent."
    )


class IntakeView(BaseModel):
    """The in-topic, as this replica reads it; numbers since its start."""

    model_config = _CLOSED

    status: str = Field(description="`starting`, `running`, `waiting: <for what>` or `stopped`.")
    records: Count
    letters: Count
    bad_letters: Count
    errors: Count = Field(
        description="Letters stored as errors: bad ones, and those that could not be kept apart."
    )
    dead_letters: Count = Field(description="Records moved to the dead-letter topic.")
    replays: Count = Field(description="Letters read a second time.")
    joined: Count = Field(description="Letters that another record had brought already.")
    clashes: Count = Field(description="Letters whose ID another one has.")
    records_lost: Count = Field(description="Records that the broker deleted before they were read.")


class ReportsView(BaseModel):
    """The profile topic, as this replica writes it; numbers since its start."""

    model_config = _CLOSED

    status: str = Field(
        description="`running`, `failing: <why>` (also where only some partitions fail) or `stopped`."
    )
    waiting: Count
    put_off: Count = Field(description="Those of them that wait for a partition in trouble.")
    published: Count
    given_up: Count = Field(description="Reports that the broker will never take; they are in MongoDB.")
    marked: Count
    swept: Count = Field(description="Reports that a crash or an outage had left unpublished.")
    left_to_sweep: Count


class EventLoopView(BaseModel):
    """The one thread that does all the work."""

    model_config = _CLOSED

    stalls: Count = Field(description="How often it stood still for more than 100 ms since the start.")
    longest_stall_seconds: float = Field(ge=0)
    longest_stall_cpu_seconds: float = Field(
        ge=0, description="The most that one of them worked: the rest is a machine without time for us."
    )


class ConditionView(BaseModel):
    """What keeps letters, or a part of the service, waiting."""

    model_config = _CLOSED

    part: str
    text: str
    trouble: bool = Field(description="False where it is as it was set up to be; the service is ready then.")
    since: datetime
    until: datetime | None = Field(description="When it is tried again, or over, where that is known.")
    relay: str | None = Field(
        None, description="The name of the relay that it is about; null: about none, or no file names any."
    )


class LoopView(BaseModel):
    """A loop of this replica that has failed since its start: a fault of ours. Please report it."""

    model_config = _CLOSED

    name: str
    failures: Count
    since: datetime = Field(description="When it failed last.")
    error: str = Field(description="What it failed with.")
    state: Literal["waiting", "trying", "running", "given up"] = Field(
        description="Waiting to be begun again, begun a moment ago, running well again, or given up: then the"
        " service drains."
    )


class ReloadedView(BaseModel):
    """What became of the file of relays and routes."""

    model_config = _CLOSED

    path: str = Field(description="Where it lies.")
    taken: list[str] = Field(description="Keys whose values hold from now on; empty where nothing changed.")
    left: list[str] = Field(description="Keys whose values take a restart, and why.")


class NoDrain(BaseModel):
    """The service is not stopping."""

    model_config = _CLOSED

    draining: Literal[False]


class Drain(BaseModel):
    """How far the drain is."""

    model_config = _CLOSED

    draining: Literal[True]
    reason: str = Field(description="`halt`, or the signal's name.")
    step: str
    seconds: float = Field(ge=0, description="Since it began.")
    timeout_seconds: float = Field(description="When what is left is cut off.")
    in_hand: Count = Field(description="Letters that are still in flight.")
    unclean: list[str] = Field(description="What could not be done in order.")


class StatusView(BaseModel):
    """What the service is doing, in numbers."""

    model_config = _CLOSED

    version: str
    state: Literal["starting", "running", "draining", "stopped"]
    ready: bool
    not_ready_because: list[str]
    waits_for: list[ConditionView] = Field(description="What keeps letters waiting now.")
    uptime_seconds: float = Field(ge=0)
    queue: QueueView | None = Field(description="Null until MongoDB has told it for the first time.")
    since_start: CountersView
    rate: RateView
    sessions: SessionsView = Field(description="Those with the first of `relays`.")
    relay: RelayView = Field(description="The first of `relays`, as long as one alone is of interest.")
    relays: list[RelayDetailsView]
    routes: list[RouteView] = Field(
        description="Those of the file in its order; behind them up to 20 that are none, and yet letters wait"
        " on them."
    )
    intake: IntakeView
    reports: ReportsView
    event_loop: EventLoopView
    loops: list[LoopView] = Field(description="Those that failed and were begun again.")
    drain: NoDrain | Drain
