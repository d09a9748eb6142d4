"""How many questions a domain's SPF record takes with all that it includes (RFC 7208 §4.6.4). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailsender.check.spf_record import MAX_LOOKUPS, spf_of
from mailsender.check.txt import BadRecord, quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """What was counted: at most a little over `MAX_LOOKUPS`, where counting ends.

    `unknown` are the domains whose records are needed to go on. `faults` are sentences about records that are
    included and none to receivers.
    """

    count: int
    unknown: tuple[str, ...]
    faults: tuple[str, ...]


def count_lookups(domain: str, records: Mapping[str, Sequence[bytes]]) -> Lookups:
    """Count from the record of `domain` on; `records` are the TXT records of each domain known so far.

    What a macro names depends on the letter and is not followed. A loop of records ends by its lookups.
    """
    count = 0
    unknown: dict[str, None] = {}  # in order, each once
    faults: dict[str, None] = {}
    todo = [domain]
    while todo and count <= MAX_LOOKUPS:
        each = todo.pop()
        if each not in records:
            unknown[each] = None
            continue
        try:
            spf = spf_of(records[each])
        except BadRecord as error:
            if each != domain:
                faults[f"the record of {quoted(each)}, which it includes, {error}"] = None
            continue
        count += spf.lookups
        todo += [name for name in reversed(spf.follows) if "%" not in name]
    return Lookups(count=count, unknown=tuple(unknown), faults=tuple(faults))
