"""What would become of letters, made by the parts that would do it, up to the moment before they publish.

A message is made as for a relay that offers 8BITMIME and SMTPUTF8, which nearly all do: what one offers is
known only in a session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mailsender.admin.breath import Breath
from mailsender.intake.attachments import Contents, fault_of
from mailsender.intake.batch import Fault, faults, letter_id, read_letter
from mailsender.intake.schema import NO_ID
from mailsender.message.composer import Filling
from mailsender.message.parts import Base64
from mailsender.message.values import BadKey
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Origin, now_ms
from mailsender.routing.routes import table_of
from mailsender.routing.table import traits_of
from mailsender.routing.way import way_of
from mailsender.service import Replica
from mailsender.templates.template import TemplateError
from mailsender.web.models import DryLetterView, DryMessageView, DryRunView, DryWayView
from mailsender.web.problems import MAX_FAULTS, located

MAX_LETTERS: Final = 100
"""Letters that are shown: more than a person reads. Faults are looked for in all."""

MAX_MESSAGES: Final = 10
"""Messages of a personal letter that are shown: they differ in little."""

MAX_RECIPIENTS: Final = 100
"""Recipients of a letter that are shown."""

MAX_BYTES: Final = 512 * 1024
"""Bytes of messages that are shown, all told: the answer stays about as large as the largest other one."""


class DryRun:
    """One run over letters, which shows messages until there is no more room for them."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._now = now_ms(replica.clock.epoch())
        self._room = MAX_BYTES
        self._breath = Breath()

    async def of(self, elements: Sequence[Mapping[str, Any]], *, alone: bool) -> DryRunView:
        """What would become of the elements of a batch, or of one that comes `alone`."""
        found: list[Fault] = []
        shown: list[DryLetterView] = []
        for index, element in enumerate(elements):
            wrong = faults([element], self._replica.limits, self._replica.placing.denies)
            if not wrong and len(shown) < MAX_LETTERS:
                try:
                    shown.append(await self._letter(index, element))
                except BadKey as error:  # this and the next as the intake would find it
                    wrong = [Fault(index=index, field=error.key, text=error.text)]
                except TemplateError as error:
                    wrong = [Fault(index=index, field="Template", text=f"cannot be filled in: {error}")]
                except ValueError as error:  # as a sender would find it
                    wrong = [Fault(index=index, field="", text=str(error))]
            found += [replace(fault, index=index) for fault in wrong]
            if len(found) >= MAX_FAULTS:
                break
            await self._breath.taken()
        return DryRunView.model_construct(
            letters=len(elements),
            faults=[located(fault, alone=alone) for fault in found[:MAX_FAULTS]],
            shown=shown,
        )

    async def _letter(self, index: int, element: Mapping[str, Any]) -> DryLetterView:
        own = letter_id(element)
        origin = Origin(topic="", partition=0, offset=0, index=index, timestamp=-1)
        brought = Contents()
        read = read_letter(element, origin, None, self._replica.limits, now=self._now, keep=brought.keep)
        letter, filling = await self._replica.filler.tried(read.evolve(id=own or NO_ID))
        letter = self._placed(letter)
        mail = self._replica.composer.mail(letter)
        if fault := fault_of(mail.refs, await self._sizes(mail.refs, brought), self._replica.limits):
            raise fault
        people = letter.everybody if mail.personal else ("",)
        route = next(each for each in self._replica.routes if each.name == letter.route)
        contents = {ref: Base64.of([content]) for ref, content in brought.by_ref.items()}
        taken = await self._replica.blobs.take([ref for ref in mail.refs if ref not in contents])
        contents |= taken.contents
        messages: list[DryMessageView] = []
        try:
            for person in people[:MAX_MESSAGES]:
                messages.append(self._message(letter, person, contents, filling))
                await self._breath.taken()  # one may take as long as a rendering may
        finally:
            self._replica.blobs.give_back(taken)
        return DryLetterView.model_construct(
            index=index,
            id=own or None,
            route=route.name,
            relays=[relay.told for relay in route.relays],
            ways=list(self._ways(letter)),
            suppressed=await self._suppressed(letter),
            reverse_path=mail.reverse_path or route.relays[0].policy.reverse_path,
            recipients=list(letter.everybody[:MAX_RECIPIENTS]),
            recipients_left_out=max(0, len(letter.everybody) - MAX_RECIPIENTS),
            messages=messages,
            messages_left_out=max(0, len(people) - MAX_MESSAGES),
        )

    def _placed(self, letter: Letter) -> Letter:
        """The letter on its route.

        Raises:
            ValueError: the intake would take it for an error.
        """
        placed = self._replica.placing.placed(letter, self._now)
        if placed.status.final:
            raise ValueError(placed.reason)
        return placed

    def _ways(self, letter: Letter) -> Iterator[DryWayView]:
        replica, service = self._replica, self._replica.settings.sender[1]
        traits = traits_of(letter, service)
        for addresses in table_of(replica.plan, service).parts(letter, letter.everybody).values():
            way = way_of(replica.plan, traits, addresses[0])
            yield DryWayView.model_construct(
                route=way.route.name,
                why=way.why,
                relays=[each.relay.name for each in way.stops],
                recipients=len(addresses),
            )

    async def _suppressed(self, letter: Letter) -> list[str] | None:
        try:
            found = await self._replica.suppression.met(letter, letter.everybody)
        except Unavailable:
            return None
        return list(found)[:MAX_RECIPIENTS]

    async def _sizes(self, refs: Sequence[str], brought: Contents) -> Mapping[str, int]:
        sizes = {ref: len(content) for ref, content in brought.by_ref.items()}
        for ref in dict.fromkeys(refs):
            if ref not in sizes and (blob := await self._replica.parts.blobs.find(ref)) is not None:
                sizes[ref] = blob.size
        return sizes

    def _message(
        self, letter: Letter, person: str, contents: Mapping[str, Base64], filling: Filling | None
    ) -> DryMessageView:
        made = self._replica.composer.compose(
            letter,
            eight_bit=True,
            smtputf8=True,
            date=self._now,
            person=person,
            contents=contents,
            filling=filling,
        )
        pieces = (made,) if isinstance(made, bytes) else made
        size = sum(map(len, pieces))
        fits = size <= self._room
        if fits:
            self._room -= size
        return DryMessageView.model_construct(
            person=person, size=size, text=b"".join(pieces).decode() if fits else None
        )
