"""What is asked of the service itself."""

from __future__ import annotations

from typing import Final

from mailsender.ratelimit.order import MOST_KEY
from mailsender.web.endpoints.endpoint import (
    JSON,
    LINE,
    OPENMETRICS,
    TEXT,
    UNAVAILABLE,
    Answer,
    Endpoint,
    Schema,
    problem,
)
from mailsender.web.models import Drain, LiftedOrderView, ReloadedView, StatusView

_RELAY: Final[Schema] = {
    "name": "relay",
    "in": "path",
    "required": True,
    "description": "The relay's name: the `relay` of `/status`.",
    "schema": {"type": "string", "maxLength": 100},
}
_SCOPE: Final[Schema] = {
    "name": "scope",
    "in": "path",
    "required": True,
    "description": "What the order covers, as in `/status`: `relay`, `destination:gmail.com`,"
    " `sender:ann@example.com`.",
    "schema": {"type": "string", "maxLength": MOST_KEY},
}
_REASON: Final[Schema] = {
    "name": "reason",
    "in": "query",
    "description": "Why, for the log.",
    "schema": {"type": "string", "maxLength": 200},
}

SERVICE: Final = (
    Endpoint(
        method="GET",
        path="/",
        name="greet",
        tag="looking",
        summary="Name, version and state in one line",
        answers=(Answer(status=200, text="One line.", content={TEXT: LINE}),),
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        name="healthz",
        tag="probes",
        summary="Whether the process works",
        answers=(Answer(status=200, text="It does.", content={TEXT: {"const": "ok\n"}}),),
        public=True,
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        name="readyz",
        tag="probes",
        summary="Whether the service does its work",
        text="Why it does not is for `/status`, which wants the key.",
        answers=(
            Answer(status=200, text="It does.", content={TEXT: {"const": "ok\n"}}),
            Answer(status=503, text="It does not.", content={TEXT: {"const": "not ready\n"}}),
        ),
        public=True,
        cheap=True,
    ),
    Endpoint(
        method="GET",
        path="/status",
        name="status",
        tag="looking",
        summary="What the service is doing, in numbers",
        answers=(Answer(status=200, text="The numbers.", content={JSON: StatusView}),),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        name="metrics",
        tag="looking",
        summary="The metrics, for Prometheus",
        text="In its text format, or as OpenMetrics where `Accept` asks for that. With HTTP_METRICS_PORT they"
        " are there, too, and want no key.",
        answers=(Answer(status=200, text="The metrics.", content={TEXT: LINE, OPENMETRICS: LINE}),),
        cheap=True,
    ),
)
"""What tells how the service is."""

STOPPING: Final = (
    Endpoint(
        method="POST",
        path="/reload",
        name="reload",
        tag="changing",
        summary="Read the file of relays and routes again",
        text="What can change while the service runs is taken, of this replica alone; what takes a restart is"
        " told. With something wrong in the file nothing is changed.",
        answers=(
            Answer(status=200, text="It was read.", content={JSON: ReloadedView}),
            problem(409, "`bad-config`: the file is wrong; `no-config`: there is none."),
        ),
        slow=True,
        late="The file may have been taken after all.",
    ),
    Endpoint(
        method="DELETE",
        path="/relays/{relay}/orders/{scope}",
        name="lift_order",
        tag="changing",
        summary="End what a relay's reply ordered",
        text="What it covers may begin at once, on other replicas some seconds later; the relay's next reply"
        " may order it again. Letters that only waited for its end are due again within seconds; those to"
        " which the reply was given come at the time to which it put them off.",
        parameters=(_RELAY, _SCOPE, _REASON),
        answers=(
            Answer(status=200, text="It holds no more.", content={JSON: LiftedOrderView}),
            problem(400, "A parameter cannot be understood."),
            problem(404, "There is no such relay or scope, or nothing is ordered."),
            UNAVAILABLE,
        ),
        slow=True,
        late="It may have been lifted after all.",
    ),
    Endpoint(
        method="POST",
        path="/halt",
        name="halt",
        tag="stopping",
        summary="Begin the drain",
        text="Called again, it says how far the drain is. At its end the process exits.",
        answers=(Answer(status=200, text="It has begun.", content={JSON: Drain}),),
        cheap=True,
    ),
)
"""What changes the service, and what ends it."""
