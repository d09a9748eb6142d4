"""The relay's ledger: what it took responsibility for, one JSON object a line in an append-only file.

A line is written with one `os.write` before anything that follows from it is done, so what stands there
was decided, whatever became of either process afterwards. Times are seconds: `m` on the machine's monotonic
clock, which all processes share, `t` since the epoch.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAIL, ACCEPTED, REFUSED, VIOLATION, BROKEN = "mail", "accepted", "refused", "violation", "broken"
SESSION, SAID, DOUBTED = "session", "said", "doubted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One message that the relay took responsibility for.

    `mark` is the text of the subject that names the letter; `recipients` are those that had got a 250.
    `told` is False where the plan kept the relay from answering. `leaked` are addresses of recipients found
    in the message. `relay` is its name where there are several.
    """

    mark: str
    message_id: str
    recipients: tuple[str, ...]
    mail_at: float
    at: float
    epoch: float
    session: str
    digest: str
    size: int
    told: bool = True
    leaked: tuple[str, ...] = ()
    relay: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What happened at one place of a relay that has several, and when, on the monotonic clock.

    `kind` is `SESSION` as it begins, `MAIL`, or `SAID`, which is a deed of the plan.
    """

    kind: str
    place: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All that stands in a ledger. `mails` are the moments of MAIL FROM, on the monotonic clock.

    They are those at which the relay read it. `live_mails` are those of them whose client was still there:
    what a client wrote ahead and left behind may be read long after its end, when the relay had stalled.
    `doubted` are the letters to whose dot it gave no answer that arrives for certain.
    """

    acceptances: tuple[Acceptance, ...]
    mails: tuple[float, ...]
    live_mails: tuple[float, ...]
    violations: tuple[str, ...]
    refusals: int
    broken: int
    moments: tuple[Moment, ...] = ()
    doubted: frozenset[str] = frozenset()


class LedgerFile:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, kind: str, **more: Any) -> None:
        """Write one line, with the time."""
        entry = {"k": kind, "m": time.monotonic(), "t": time.time(), **more}
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Ledger:
    """What stands there now; a line that is being written is left for the next time."""
    raw = path.read_bytes() if path.exists() else b""
    entries = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_kind.setdefault(entry["k"], []).append(entry)
    return Ledger(
        acceptances=tuple(_acceptance(entry) for entry in by_kind.get(ACCEPTED, ())),
        mails=tuple(entry["m"] for entry in by_kind.get(MAIL, ())),
        live_mails=tuple(entry["m"] for entry in by_kind.get(MAIL, ()) if entry["alive"]),
        violations=tuple(f"{e['session']}: {e['what']}" for e in by_kind.get(VIOLATION, ())),
        refusals=len(by_kind.get(REFUSED, ())),
        broken=len(by_kind.get(BROKEN, ())),
        doubted=frozenset(entry["mark"] for entry in by_kind.get(DOUBTED, ())),
        moments=tuple(
            Moment(kind=entry["k"], place=entry["place"], at=entry["m"])
            for entry in entries
            if entry.get("place") and entry["k"] in {SESSION, MAIL, SAID}
        ),
    )


def _acceptance(entry: dict[str, Any]) -> Acceptance:
    return Acceptance(
        mark=entry["mark"],
        message_id=entry["id"],
        recipients=tuple(entry["rcpt"]),
        mail_at=entry["mail_m"],
        at=entry["m"],
        epoch=entry["t"],
        session=entry["session"],
        digest=entry["digest"],
        size=entry["size"],
        told=entry["told"],
        leaked=tuple(entry["leaked"]),
    )
