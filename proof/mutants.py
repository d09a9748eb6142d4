"""The proof of the proof: the service is broken on purpose, one promise at a time, and has to be found out.

A copy of the package with one change is put before the real one on the replicas' path. A change that no
longer fits the source is told as not run, so that it gets renewed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lab.provider_replies import SAID
from proof.experiments.builds import builds
from proof.experiments.callers import callers
from proof.experiments.clocks import clocks
from proof.experiments.cluster import UNCLEAN, lost, sick
from proof.experiments.drains import drains, drains_without
from proof.experiments.frozen import frozen
from proof.experiments.kills import kills
from proof.experiments.lagging import lagging
from proof.experiments.misbehaving import misbehaving
from proof.experiments.offsets import offsets
from proof.experiments.publishers import publishers
from proof.experiments.rate import rate
from proof.experiments.rebalances import rebalances
from proof.experiments.relays import relays, weights
from proof.experiments.replies import replies
from proof.experiments.shares import shares
from proof.experiments.strangers import strangers
from proof.experiments.vanished import vanished
from proof.experiments.whole import whole
from proof.stage import Stage
from proof.table import NOT_RUN, Row

PACKAGE = Path(__file__).parents[1] / "mailsender"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change, the experiment that has to notice it, and `finding`, a part of what that has to say.

    `seconds` is about what that takes, and `cores` how many are busy meanwhile.
    """

    name: str
    file: str
    old: str
    new: str
    attempt: Callable[[Stage, int], Row]
    finding: str
    seconds: float = 12.0
    cores: float = 0.5


def _kills(stage: Stage, seed: int) -> Row:
    return kills(stage, seed, runs=10, latest=1.8)


MUTANTS = (
    Mutant(
        name="offsets are committed before the insert",
        file="intake/consumer.py",
        old="        if letters:\n            await self._insert(letters, stop)\n",
        new=(
            "        if batch.offsets:\n"
            "            await self._remember(batch)\n"
            "            await self._commit()\n"
            "            await asyncio.sleep(0.3)\n"
            "        if letters:\n            await self._insert(letters, stop)\n"
        ),
        attempt=_kills,
        finding="P1 lost",
        seconds=55.0,  # what never comes is waited for
    ),
    Mutant(
        name="some letters leave the outbox without a report",
        file="reports/publisher.py",
        old="for each in batch for index in range(each.answered, len(each.answers))]",
        new="for each in batch for index in range(each.answered, len(each.answers)) if each.id[-2:] != '77']",
        attempt=_kills,
        finding="unreported",
        seconds=50.0,  # what never comes is waited for
    ),
    Mutant(
        name="nobody looks into the outbox of the dead",
        file="queue/mongo/outbox.py",
        old="ready, waits, absent = await self._swept(entry, now)",
        new="ready, waits, absent = list[Letter](), True, list[Any]()",
        # Only an end between a settlement and its report leaves one behind, as that without a broker does.
        attempt=lambda stage, seed: drains_without(stage, seed, part="broker", runs=6),
        finding="left in the outbox",
        seconds=140.0,  # what never comes is waited for
    ),
    Mutant(
        name="replicas count as dead before their time is over",
        file="queue/mongo/replicas.py",
        old='over: Document = {"dead": {"$ne": True}, "$expr": {"$lte": ["$until", now]}}',
        new='over: Document = {"dead": {"$ne": True}, "$expr": {"$gt": [now, 0]}}',
        attempt=lambda stage, seed: rebalances(stage, seed, runs=4),
        finding="twice without a break",
        cores=1.2,
    ),
    Mutant(
        name="a replica that was declared dead lives on",
        file="queue/mongo/replicas.py",
        old='{"_id": replica, "dead": {"$ne": True}}, _living(life)',
        new='{"_id": replica}, _living(life)',
        attempt=lambda stage, seed: frozen(stage, seed, runs=4),
        finding="too many twice",
        seconds=40.0,
    ),
    Mutant(
        name="slots lie closer together than they may",
        file="ratelimit/gcra.py",
        old="crowded = (self.period + self.life + AGREEMENT) / (self.letters + self.burst)",
        new="return (self.period + self.life + AGREEMENT) / (self.letters + self.burst) / 1.4",
        attempt=lambda stage, seed: rate(stage, seed, replicas=2, seconds=8, failover=False),
        finding="too fast",
    ),
    Mutant(
        name="who may have a letter gets it over the next relay at once",
        file="sending/failover.py",
        old="if (result.verdict is Verdict.DEFERRED or _lacks(result)) and address not in out\n",
        new="if result.verdict in (Verdict.DEFERRED, Verdict.UNCERTAIN) and address not in out\n",
        attempt=lambda stage, seed: relays(stage, seed, way="frozen", runs=3, replicas=1),
        finding="P12 by two relays",
        seconds=45.0,
        cores=1.2,
    ),
    Mutant(
        name="what a relay was told to rest goes on",
        file="routing/relay.py",
        old="                self.limiter.order(order)\n",
        new="                pass\n",
        attempt=lambda stage, seed: replies(stage, seed, said=SAID[:3], replicas=1),
        finding=" s after ",
        seconds=45.0,
    ),
    Mutant(
        name="all streams have the same share",
        file="routing/shares.py",
        old="share=route.share, shares=dict(route.shares)\n",
        new="share=1.0, shares={}\n",
        attempt=lambda stage, seed: shares(stage, seed, form="streams of a route", letters=300, replicas=1),
        finding="letters were of a",
        seconds=40.0,
    ),
    Mutant(
        name="whose turn it was keeps it",
        file="routing/weights.py",
        old="        self._credits[best] -= total\n",
        new="        self._credits[best] -= self._weights[best]\n",
        attempt=lambda stage, seed: weights(stage, seed, letters=500, replicas=1),
        finding="of the letters",
        seconds=20.0,
        cores=1.2,
    ),
    Mutant(
        name="the drain gives nothing back",
        file="sending/dispatcher.py",
        old="        by_token: dict[str, list[str]] = {}\n        for token, letter in letters:\n",
        new="        by_token: dict[str, list[str]] = {}\n        for token, letter in ():\n",
        attempt=lambda stage, seed: drains(stage, seed, runs=6),
        finding="letters processing",
    ),
    Mutant(
        name="a connection lost after the dot counts as accepted",
        file="smtp/transaction.py",
        old="verdict=Verdict.UNCERTAIN if self.phase is Phase.DOT else Verdict.DEFERRED",
        new="verdict=Verdict.ACCEPTED if self.phase is Phase.DOT else Verdict.DEFERRED",
        attempt=lambda stage, seed: misbehaving(stage, seed, letters=1500),
        finding="told sent, not accepted",
        cores=1.2,
    ),
    Mutant(
        name="recipients stand in a header",
        file="message/compose.py",
        old="            self.message_id(letter).encode(),\n",
        new='            f"{self.message_id(letter)}\\r\\nX-To: {letter.addresses[0]}".encode(),\n',
        attempt=lambda stage, seed: misbehaving(stage, seed, letters=20),
        finding="a blind copy was seen",
        cores=1.2,
    ),
    Mutant(
        name="what lies where something was read before counts as read",
        file="queue/mongo/insert.py",
        old="each.verdict = Inserted.TAKEN if each.letter.id_computed else Inserted.CLASH",
        new="each.verdict = Inserted.REPLAY",
        attempt=lambda stage, seed: offsets(stage, seed, way="remade while it runs"),
        finding="lost",
        seconds=40.0,  # what never comes is waited for
    ),
    Mutant(
        name="the next build names letters otherwise",
        file="model/letter.py",
        old='return f"{seconds:08x}{self._digest().hex()}"',
        new='return f"{seconds:08x}{self._digest()[::-1].hex()}"',
        attempt=lambda stage, seed: builds(stage, seed, runs=14),
        finding="two IDs",
        seconds=60.0,
        cores=1.2,
    ),
    Mutant(
        name="what decides is read from any member",
        file="queue/mongo/client.py",
        old="        read_preference=ReadPreference.PRIMARY,\n",
        new="",
        attempt=lambda stage, seed: lagging(stage, seed, letters=800),
        finding="was asked",
        seconds=80.0,
    ),
    Mutant(
        name="a record's age is told by the clocks of its producer and this replica",
        file="intake/consumer.py",
        old="        if self._may_be_forgotten(record, standing, history):\n",
        new="        if self._clock.epoch() - record.timestamp / 1000 > self._config.retention:\n",
        attempt=lambda stage, seed: clocks(stage, seed, whose="producers"),
        finding="dead without need",
        seconds=60.0,  # what never comes is waited for
    ),
    Mutant(
        name="of documents of other programs nobody asks whom they are for",
        file="sending/sender.py",
        old='fault = letter.reason or (address_fault(letter) if foreign else "")',
        new="fault = letter.reason",
        attempt=lambda stage, seed: strangers(stage, seed, runs=400),
        finding="neither sent nor set apart",
        seconds=60.0,
        cores=0.4,
    ),
    Mutant(
        name="what is no batch ends the loop that reads",
        file="intake/consumer.py",
        old="        except NotABatch as error:\n            self._bury_once(",
        new="        except KeyError as error:\n            self._bury_once(",
        attempt=lambda stage, seed: whole(stage, seed, seconds=8),
        finding="not committed to the end",
        seconds=60.0,
    ),
    Mutant(
        name="a batch of any size is unpacked",
        file="kafka/records.py",
        old="whole = _plain(self._raw, _unpacked(self._raw, codec, self._limit))",
        new="whole = _plain(self._raw, _unpacked(self._raw, codec, 2**30))",
        attempt=lambda stage, seed: publishers(stage, seed, kinds=("packed",)),
        finding="MiB of memory",
        seconds=20.0,
        cores=1.2,
    ),
    Mutant(
        name="a page of another site may post",
        file="web/origins.py",
        old='    origin = headers.get("Origin")\n',
        new="    origin = None\n",
        attempt=lambda stage, seed: callers(stage, seed, kinds=("other sites",)),
        finding="was answered with 200",
        seconds=30.0,
    ),
    Mutant(
        name="a file that is away ends the task that connects to Kafka",
        file="kafka/client.py",
        old="            except Exception as error:  # noqa: BLE001  a file that is away for a moment,",
        new="            except TimeoutError as error:  # a file that is away for a moment,",
        attempt=lambda stage, seed: vanished(stage, seed, what="Kafka's CA"),
        finding="s after its return",
        seconds=85.0,  # what never comes is waited for
    ),
    Mutant(
        name="all partitions wait for the one that is sick",
        file="kafka/producer.py",
        old="            if not lane.open(now):\n",
        new="            if self._lanes.some_trouble():\n",
        attempt=lambda stage, seed: sick(stage, seed, topic="reports", way="without a leader"),
        finding="letters were reported in time",
        seconds=60.0,
    ),
    Mutant(
        name="what lies at the offset of what was read counts as read",
        file="kafka/positions.py",
        old="if offset == wanted.last and digest_of(key, value, timestamp) == wanted.digest:",
        new="if offset == wanted.last:",
        attempt=lambda stage, seed: lost(stage, seed, what=UNCLEAN),
        finding="no line says that the log is another than the one that was read",
        seconds=80.0,  # what never comes is waited for
    ),
)


def hunt(stage: Stage, mutant: Mutant, seed: int) -> Row:
    """Run one experiment on a mutant; its row is good when the mutant was found out."""
    began, title = time.monotonic(), f"mutant: {mutant.name}"
    tree = stage.directory / f"mutant-{mutant.file.replace('/', '-')}"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(PACKAGE, tree / "mailsender", ignore=shutil.ignore_patterns("__pycache__"))
    source = tree / "mailsender" / mutant.file
    text = source.read_text("utf-8")
    if text.count(mutant.old) != 1:
        return Row(experiment=title, seed=seed, runs=0, verdict=f"{NOT_RUN}: it no longer fits the source")
    source.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    whole, stage.tree = stage.tree, tree
    try:
        found = mutant.attempt(stage, seed)
    finally:
        stage.tree = whole
    seen = [line for line in (found.verdict, *found.details) if mutant.finding in line]
    return replace(
        found,
        experiment=title,
        verdict="kept" if seen else "BROKEN: the mutant was not found out",
        notes=f"{found.experiment}: {seen[-1]}" if seen else f"{found.experiment}: {found.verdict}",
        details=() if seen else found.details,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="mutants --seed {seed}"',
    )
