"""The published pages: what was tried and what came of it in a few lines, and all rows beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proof.table import Row, as_markdown, counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A line of the short table.

    `tried` says in words what each of its parts does, by the first word of the names of that part's steps: of
    what was not run nothing is said.
    """

    promise: str
    tried: Mapping[str, str]


CHAPTERS = (
    Chapter(
        promise="A killed process loses nothing, and names what may come twice",
        tried={"kills": "`kill -9` under load by the clock, around the final dot, around each write"},
    ),
    Chapter(
        promise="Each letter has one owner, and all replicas together keep the rate",
        tried={
            "frozen": "replicas frozen past their time",
            "rebalances": "replicas that join and leave",
            "rate": "replicas killed, and failovers, at a low rate",
        },
    ),
    Chapter(
        promise="What one relay may have taken goes over no other one",
        tried={
            "relays": "three of them, each killed, frozen, refusing logins, giving each reply of each preset;"
            " `kill -9` amid failovers; weights, shares and sending windows"
        },
    ),
    Chapter(
        promise="What was away comes back without anybody's help",
        tried={
            "outage": "Kafka, MongoDB, relay killed or frozen, alone and by twos",
            "failovers": "MongoDB's primary lost",
            "network": "the network cut, stalled, slow",
            "disk": "a full disk",
            "vanished": "certificates and directories away for a moment",
        },
    ),
    Chapter(
        promise="What is sick holds up only what depends on it",
        tried={
            "sick": "three brokers, one partition of each topic sick in turn",
            "lost": "leaders and disks of brokers lost",
            "lagging": "a secondary that lags",
        },
    ),
    Chapter(
        promise="No letter is buried, none is forgotten in silence",
        tried={
            "offsets": "the in-topic made anew, cut, lost",
            "clocks": "wrong clocks of producers, replicas, MongoDB",
            "builds": "builds rolled forth and back",
        },
    ),
    Chapter(
        promise="A halt is clean",
        tried={"drains": "stopped at random instants in every state, also while a part is away"},
    ),
    Chapter(
        promise="Data stops no loop and fills no memory",
        tried={
            "poison": "letters and records made to kill",
            "publishers": "records made to grow, to unpack, to take time",
            "strangers": "documents of other programs",
            "whole": "everything hostile at once, from a seed",
        },
    ),
    Chapter(
        promise="Nobody at the HTTP port stops the main job",
        tried={
            "http": "callers of every bad sort",
            "callers": "connections, heads, bodies, batches without end; other sites",
        },
    ),
    Chapter(
        promise="Nothing is smuggled, nobody is fooled, no secret gets out",
        tried={
            "misbehaving": "a relay that does everything wrong",
            "smuggling": "injection before Postfix and aiosmtpd",
            "tls": "certificates that are not to be trusted",
            "secrets": "canaries as secrets",
        },
    ),
    Chapter(
        promise="Any octets have an answer",
        tried={
            "inputs": "bad records, messages, replies, requests, settings from a seed",
            "guided": "the same guided by coverage",
        },
    ),
    Chapter(
        promise="All of it together holds over years of virtual time",
        tried={
            "simulation": "worlds from a seed: replicas die, MongoDB, Kafka and relays are away, lose, limit"
        },
    ),
    Chapter(
        promise="The experiments can find something",
        tried={
            "mutant": "the service broken on purpose, one promise at a time, and found out",
        },
    ),
)

_INTRODUCTION = """\
# Proof

What tried to break mailsender's promises (see [architecture.md](architecture.md)), and what came of it.
`make proof` runs all of it and writes this page; it is not edited by hand.

The relay is the experiments' own, a strict SMTP server that writes each acceptance into a ledger before it
answers. A judge compares what was published with that ledger, the reports, the collection and the committed
offsets; of the service it knows nothing else.
"""

_BELOW = """\
*times* counts blows, or inputs. *twice* are letters that some recipient got more than once: SMTP cannot
exclude it where a process or a connection dies between the dot and the relay's answer, so each had its reason
in such a blow, or else the verdict would say `BROKEN`. Every row with its seed, and how to repeat it:
[proof/rows.md](proof/rows.md); the same for programs: [proof/rows.jsonl](proof/rows.jsonl).
"""

_HEAD = ("promise", "tried how", "times", "letters", "twice", "result")


def as_page(rows: Sequence[Row], machine: str) -> str:
    """`docs/proof.md`."""
    lines = [_line(chapter, found) for chapter in CHAPTERS if (found := _of(chapter, rows))]
    broken = [each for each in rows if not each.good]
    parts = [_INTRODUCTION, f"Measured on {machine}.", as_markdown(_HEAD, lines), _BELOW]
    if broken:
        parts += ["## What was found", *(_finding(each) for each in broken)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def part_of(row: Row) -> str:
    """The first word of its step's name."""
    return row.step.partition(" ")[0]


def _of(chapter: Chapter, rows: Sequence[Row]) -> list[Row]:
    return [each for each in rows if part_of(each) in chapter.tried]


def _line(chapter: Chapter, found: Sequence[Row]) -> tuple[str, ...]:
    letters, twice = sum(each.letters for each in found), sum(each.duplicates for each in found)
    # Of a mutant's letters nothing is promised.
    shown = letters > 0 and "mutant" not in chapter.tried
    parts = {part_of(each) for each in found}
    return (
        chapter.promise,
        "; ".join(words for name, words in chapter.tried.items() if name in parts),
        f"{sum(each.runs for each in found):,}",
        f"{letters:,}" if shown else "",
        f"{twice:,}" if shown else "",
        _result(found),
    )


def _result(found: Sequence[Row]) -> str:
    kept = sum(each.verdict == "kept" for each in found)
    left = sum(each.good for each in found) - kept
    broken = len(found) - kept - left
    shown = f"kept, {kept} of {len(found)}" if kept < len(found) else f"kept, all {kept}"
    shown += f"; {left} not run" if left else ""
    return f"**{broken} BROKEN**; {shown}" if broken else shown


def _finding(each: Row) -> str:
    lines = "\n".join(f"- {line}" for line in each.details)
    return f"### {each.experiment}, seed {each.seed}\n\n{each.verdict}\n\n{lines}".strip()


_ROWS_INTRODUCTION = """\
# Proof, row by row

Written by `make proof`, as [the short page](../proof.md).

- *accepted* counts pairs of letter and recipient by how often the relay took responsibility for them. Some
  recipients and letters are refused by plan, and so are accepted 0 times; the judge holds what was told
  against it.
- *reports* counts letters by how many reports they have; two are allowed, in the same words.
- *verdict* is `kept`, or the promises that were broken and how often.
- The seed fixes the plan and the blows; the machine's timing it cannot fix.
"""


def as_rows(rows: Sequence[Row]) -> str:
    """`docs/proof/rows.md`."""
    heads, lines = counts(rows)
    parts = [_ROWS_INTRODUCTION, as_markdown(heads, lines), "## What was seen, and how to see it again"]
    for each in rows:
        again = f"`{each.repeat}`" if each.repeat else ""
        parts.append("\n".join(line for line in (f"**{each.experiment}**: {each.notes}", again) if line))
    return "\n\n".join(part.strip() for part in parts) + "\n"
