"""What all senders of a replica share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from mailsender.blobs.cache import BlobCache
from mailsender.message.composer import Filling
from mailsender.message.mail import NO_CONTENTS, Mail
from mailsender.message.parts import Base64
from mailsender.model.clock import Clock
from mailsender.model.letter import Letter
from mailsender.queue.inflight import InFlight
from mailsender.routing.table import RouteTable
from mailsender.sending.permit import Margins, Means
from mailsender.sending.settler import Settler
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch


class Compose(Protocol):
    """Makes the bytes of a message; see `mailsender.message.composer`."""

    def compose(
        self,
        letter: Letter,
        *,
        eight_bit: bool,
        date: datetime,
        smtputf8: bool = False,
        person: str = "",
        contents: Mapping[str, Base64] = NO_CONTENTS,
        filling: Filling | None = None,
    ) -> bytes | tuple[bytes, ...]:
        """The message, ready for the wire but for dot-stuffing. Raises ValueError for a bad header.

        `person` is the one recipient of a message of a personal letter, `contents` are those of attachments,
        `filling` is what its words are made of. Raises OnePersonsFault where this message alone cannot be
        made.
        """
        ...

    async def filling(self, letter: Letter) -> Filling | None:
        """What the messages of a personal letter are made of, None where it has no template.

        Raises:
            ValueError: nothing can be made of it.
            Unavailable: the store of templates does not answer.
        """
        ...

    def mail(self, letter: Letter) -> Mail:
        """What its further keys say. Raises ValueError where they say nothing that can be sent."""
        ...

    def message_id(self, letter: Letter) -> str:
        """The Message-ID, the same over all attempts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPolicy:
    """What the operator chose about sending, whatever the relay.

    `refuse_probability` is the course's: so many letters are refused without asking a relay. `life` is after
    how many seconds of silence this replica counts as dead.
    """

    refuse_probability: float
    life: float


PLAIN_TABLE: Final = RouteTable(())
"""That of a service where all letters take the one route."""


@dataclass(slots=True)
class Tools:
    """What all senders of a replica share. `table` is another one once routes were changed."""

    in_flight: InFlight
    settler: Settler
    composer: Compose
    policy: SendPolicy
    clock: Clock
    chance: random.Random
    stopping: asyncio.Event
    means: Means
    suppression: SuppressionWatch
    blobs: BlobCache | None = None
    table: RouteTable = PLAIN_TABLE

    @staticmethod
    def of(
        *,
        in_flight: InFlight,
        settler: Settler,
        composer: Compose,
        policy: SendPolicy,
        clock: Clock,
        chance: random.Random,
        stopping: asyncio.Event,
        suppression: SuppressionWatch | None = None,
        blobs: BlobCache | None = None,
        table: RouteTable = PLAIN_TABLE,
    ) -> Tools:
        """Those with the margins that follow from them; without `suppression` nobody is suppressed."""
        if suppression is None:
            suppression = SuppressionWatch(MemorySuppressions(), clock, SuppressionPolicy())
        means = Means(clock, in_flight, Margins.of(policy.life))
        return Tools(
            in_flight, settler, composer, policy, clock, chance, stopping, means, suppression, blobs, table
        )
