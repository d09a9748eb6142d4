"""What the HTTP side answers to who asks why a letter is where it is."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mailsender.web.models import Count, LetterId

_CLOSED = ConfigDict(frozen=True, extra="forbid")

Kinds = Literal[
    "expired",
    "route",
    "here",
    "due",
    "window",
    "away",
    "breaker",
    "order",
    "hangs",
    "turn",
    "quota",
    "sessions",
    "slots",
    "sender",
    "suppressed",
    "behind",
]
"""Those of `mailsender.routing.obstacles.Kind`."""


class ObstacleView(BaseModel):
    """One thing that stands in a letter's way."""

    model_config = _CLOSED

    kind: Kinds = Field(
        description="`expired`: its time to be sent is over. `route`: it waits on one that is none, or not"
        " its own. `here`: this replica sends nothing now; others may. `due`: a time of its own is to come."
        " `window`: the route sends at other times. `away`: the relay cannot be reached. `breaker`: the relay"
        " refuses everybody's letters. `order`: a relay's reply asked to wait. `turn`: the limits of the"
        " recipient's domain are reached. `quota`: it is used up. `sessions`: other replicas have all of"
        " them. `slots`: MongoDB gives none, or too late. `sender`: the relay takes no mail from it."
        " `suppressed`: nothing is sent to the recipient. `behind`: other letters go first."
    )
    text: str = Field(description="The same as a sentence.")
    until: datetime | None = Field(
        description="When it is over, or is looked at again; null where nobody knows."
    )
    relay: str | None = Field(description="The name of the relay that it is about; null: about none.")
    rule: str | None = Field(description="`order`: the reply rule.")
    said: str | None = Field(description="What the relay said, or why it cannot be reached.")


class StopView(BaseModel):
    """A relay of a route, as this replica sees it."""

    model_config = _CLOSED

    relay: str = Field(description="Its name in the file of relays and routes.")
    weight: Count | None = Field(description="Its part of the letters; null where they are not shared.")
    fallback: bool = Field(description="It is taken only where none of the others goes.")
    obstacles: list[ObstacleView] = Field(description="What stops all letters over it now.")


class WayView(BaseModel):
    """A route that recipients of a letter take."""

    model_config = _CLOSED

    route: str
    why: str = Field(description="Why it is this one.")
    recipients: Count = Field(description="How many open recipients take it.")
    relays: list[StopView] = Field(description="In the order in which they are asked.")


class AddresseeView(BaseModel):
    """A recipient who is not done with."""

    model_config = _CLOSED

    address: str
    route: str
    next_relays: list[str] = Field(
        description="The relay over which it goes next; one of several that share by weight. Empty: none."
    )
    next_try: datetime | None = Field(description="When; null while the letter does not wait.")
    obstacles: list[ObstacleView] = Field(description="What is about this recipient alone.")


class ExplainedView(BaseModel):
    """Which way a letter takes, and what stands in it now, as this replica sees it."""

    model_config = _CLOSED

    id: LetterId
    status: Literal["awaiting", "processing", "sent", "error"]
    says: list[str] = Field(description="All of it that matters, in sentences.")
    route: str = Field(description="The route on which it stands.")
    due: datetime | None = Field(description="While it waits: when it may be tried next.")
    ahead: Count | None = Field(
        description="Letters of its route that go first, at most 10,000; null where its turn does not count."
    )
    ways: list[WayView] = Field(description="Routes of its open recipients, by the file as it is.")
    obstacles: list[ObstacleView] = Field(description="What stands in the way of all of it.")
    recipients: list[AddresseeView] = Field(description="Those who are not done with; at most 100.")
    recipients_left_out: Count
