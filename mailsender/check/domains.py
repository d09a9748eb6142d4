"""What DNS says of the domains in whose name letters are sent: DKIM, SPF, DMARC, and their alignment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from itertools import chain
from typing import Any, Final

from mailsender.check.dkim_record import check_dkim_record
from mailsender.check.dmarc_record import check_dmarc, dmarc_domains
from mailsender.check.findings import Finding
from mailsender.check.resolver import Silent
from mailsender.check.spf_lookups import count_lookups
from mailsender.check.spf_record import check_spf_records
from mailsender.message.dkim import SigningKey, SigningKeys

MOST: Final = 50
"""Domains that are looked up: of each there are some ten records, and answers have to be there in seconds."""

Txt = Callable[[str], Awaitable[list[bytes]]]
"""Asks DNS for the TXT records of a name; raises `Silent` where nobody knows."""


async def check_domains(
    txt: Txt, senders: Collection[str], *, reverse_path: str, keys: SigningKeys | None
) -> list[Finding]:
    """What receivers will make of letters from these domains.

    Args:
        txt: asks DNS.
        senders: the domains of all that letters may have in From, in A-labels and lower case.
        reverse_path: the domain of the reverse-path that letters have which name none.
        keys: those that sign.
    """
    domains = sorted(senders)[:MOST]
    every = list(keys or ())
    asked = [
        *(_Asked(f"DKIM {key.record_name}", _dkim(txt, key)) for key in every),
        *(_Asked(f"SPF {each}", _spf(txt, each)) for each in domains),
        *(_Asked(f"DMARC {each}", _dmarc(txt, each, reverse_path, keys)) for each in domains),
    ]
    await asyncio.gather(*(each.ask() for each in asked))
    silent = [each.silent for each in asked if each.silent is not None]
    found = _idle(every, senders, keys)
    if len(senders) > MOST:
        text = f"only {MOST} of {len(senders)} domains were looked up"
        found.append(Finding(part="DNS", level="warning", text=text))
    if asked and len(silent) == len(asked):
        what = f"DKIM, SPF and DMARC of {', '.join(domains)} were not looked at"
        text = f"DNS does not answer ({silent[0].why}); {what}"
        return [*found, Finding(part="DNS", level="warning", text=text)]
    return [*found, *chain.from_iterable(each.found for each in asked)]


def _idle(every: Sequence[SigningKey], senders: Collection[str], keys: SigningKeys | None) -> list[Finding]:
    """Keys that no letter will have."""
    used = {key.record_name for each in senders for key in (keys.for_sender(each) if keys else ())}
    return [
        Finding(
            part=f"DKIM {key.record_name}",
            level="warning",
            text=f"it signs nothing: no sender is of {key.domain}, see SMTP_FROM and SMTP_FROM_ALLOWED",
        )
        for key in every
        if key.record_name not in used
    ]


class _Asked:
    """A question, and what came of it: findings, or silence, which is a finding, too."""

    def __init__(self, part: str, question: Coroutine[Any, Any, list[Finding]]) -> None:
        self._part = part
        self._question = question
        self.found: list[Finding] = []
        self.silent: Silent | None = None

    async def ask(self) -> None:
        try:
            self.found = await self._question
        except Silent as error:
            self.silent = error
            self.found = [Finding(part=self._part, level="warning", text=str(error))]


async def _dkim(txt: Txt, key: SigningKey) -> list[Finding]:
    return check_dkim_record(key, await txt(key.record_name))


async def _spf(txt: Txt, domain: str) -> list[Finding]:
    records = {domain: await txt(domain)}
    counted = count_lookups(domain, records)
    silent: list[Finding] = []
    part = f"SPF {domain}"
    while counted.unknown and not silent:
        names = counted.unknown
        try:
            records |= zip(names, await asyncio.gather(*map(txt, names)), strict=True)
        except Silent as error:
            silent = [Finding(part=part, level="warning", text=f"{error}, which its record includes")]
        counted = count_lookups(domain, records)
    faults = [
        Finding(part=part, level="error", text=f"{fault}; receivers take all of it for an error")
        for fault in counted.faults
    ]
    total = None if silent else counted.count
    return [*check_spf_records(domain, records[domain], total), *faults, *silent]


async def _dmarc(txt: Txt, domain: str, reverse_path: str, keys: SigningKeys | None) -> list[Finding]:
    signing = sorted({key.domain for key in keys.for_sender(domain)}) if keys else []
    # In the order of the walk of `domain`: its own record comes first.
    names = list(dict.fromkeys(chain.from_iterable(map(dmarc_domains, (domain, *signing, reverse_path)))))
    answers = await asyncio.gather(*(txt(f"_dmarc.{each}") for each in names))
    records = dict(zip(names, answers, strict=True))
    return check_dmarc(domain, records, signing=signing, reverse_path=reverse_path)
