"""Relays of a file as an experiment's world has them: the file, the processes, and what all of them took."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab.world import Replica
from proof.history import History
from proof.load import RULES
from proof.relay import LedgerRelay
from proof.run import Run, run
from proof.stage import Stage

NAMES = ("first", "second", "third")

STEP = "2s"
"""What each step of a dialogue may take: a relay that froze has to be given up."""

USUAL: dict[str, Any] = {"delay": {"DOT": 0.02}, "offers": {"auth": True}}

_RELAY = """\
[relays.{name}]
host = "{host}"
port = {port}
tls = "none"
user = "robot"
password = "${{RELAY_PASSWORD}}"
auth_cleartext = true
letters_per_session = 10
{further}
[relays.{name}.timeouts]
connect = "{step}"
greeting = "{step}"
command = "{step}"
data = "{step}"
block = "{step}"
dot = "{step}"
"""

SETTINGS = {"RELAY_PASSWORD": "of the experiments", "SMTP_UNCERTAIN": "resend"}


@contextlib.contextmanager
def relays_of(
    stage: Stage, name: str, seed: int, *, names: Sequence[str] = NAMES, places: int = 0
) -> Iterator[tuple[Run, dict[str, LedgerRelay]]]:
    """A world with these relays; the run's own is the first, and has so many places more."""
    with (
        run(stage, name, seed, settings=SETTINGS, plan=USUAL, places=places) as world,
        contextlib.ExitStack() as stack,
    ):
        found = {names[0]: world.relay}
        for each in names[1:]:
            found[each] = relay = LedgerRelay(world.directory / each, world.relay.plan)
            stack.callback(relay.kill)
            relay.start()
        yield world, found


def relay_table(name: str, port: int, *, host: str = "127.0.0.1", **keys: Any) -> str:
    """A relay of the file, with further keys of its table."""
    further = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    return _RELAY.format(name=name, host=host, port=port, step=STEP, further=further)


def use(world: Run, *tables: str) -> None:
    """Replicas that are started from now on read a file with these tables."""
    file = world.directory / "relays.toml"
    file.write_text("".join(tables))
    world.world.settings["MAILSENDER_CONFIG"] = str(file)


def plan_of(
    seed: int, *chance: Mapping[str, Any], script: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What a relay does, beside what it refuses in every experiment."""
    return {"seed": seed, "script": [*script, *RULES], "chance": [*chance], **USUAL}


def started(world: Run) -> Replica:
    """A replica with a journal of its own, which outlives its processes."""
    journal = world.directory / f"journal-{len(world.world.replicas)}"
    journal.mkdir()
    return world.world.started(MAILSENDER_STATE_DIR=str(journal))


def history_of(world: Run, relays: Mapping[str, LedgerRelay]) -> History:
    """All that is known, with what stands in each relay's ledger."""
    books = {name: relay.read() for name, relay in relays.items()}
    return replace(
        world.history(),
        acceptances=tuple(
            replace(each, relay=name) for name, book in books.items() for each in book.acceptances
        ),
        mails=tuple(at for book in books.values() for at in book.mails),
        live_mails=tuple(at for book in books.values() for at in book.live_mails),
        doubted=frozenset[str]().union(*(book.doubted for book in books.values())),
        violations=tuple(f"{name}: {each}" for name, book in books.items() for each in book.violations),
    )


def by_relay(history: History) -> str:
    """How much each relay took, for people."""
    counts = {name: sum(each.relay == name for each in history.acceptances) for name in NAMES}
    return ", ".join(f"{name} {count}" for name, count in counts.items())
