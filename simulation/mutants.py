"""The service broken on purpose, one promise at a time: a world has to notice each.

A mutant is a change of one place in the sources, made when the module is imported. It is tried in a process
of its own, in worlds of the kind that is named with it; the intact service passes the same ones. Nothing of
the service is imported here.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mailsender"

LONGEST = 300.0
"""Seconds after which one counts as hanging, which is found out, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change, and the kind of world that notices it.

    Of the `worlds` that are tried, from `seed` on, one has to, with a line that begins with `finding`.
    `seconds` is about how long that takes.
    """

    name: str
    file: str
    old: str
    new: str
    kind: str
    finding: str
    seed: int = 1
    worlds: int = 6
    hours: float = 4.0
    seconds: float = 5.0  # as measured: 2.8 in the mean

    def fits(self) -> bool:
        """Whether it still has one place in the source."""
        return (PACKAGE / self.file).read_text("utf-8").count(self.old) == 1


MUTANTS: Sequence[Mutant] = (
    Mutant(
        name="slots lie closer together than they may",
        file="ratelimit/gcra.py",
        old="crowded = (self.period + self.life + AGREEMENT) / (self.letters + self.burst)",
        new="return (self.period + self.life + AGREEMENT) / (self.letters + self.burst) / 1.4",
        kind="rated",
        finding="P5 too fast",
    ),
    Mutant(
        name="a lapsed slot is used all the same",
        file="sending/permit.py",
        old="if not self._may_use_slot(now) or self.lost or means.cut:",
        new="if self.lost or means.cut:",
        kind="rated",
        finding="P5 too fast",
    ),
    Mutant(
        name="nobody asks before MAIL whether the letter is ours yet",
        file="sending/permit.py",
        old="self.lost = means.in_flight.lasts(self.token, self.letter_id) - now < means.margins.begin",
        new="self.lost = False",
        kind="dying",
        finding="P3 begun by one who does not own it",
    ),
    Mutant(
        name="a replica that was declared dead lives on",
        file="queue/heartbeat.py",
        old="        if await self._queue.beat(self._in_flight.replica, self.life):\n",
        new="        if await self._queue.beat(self._in_flight.replica, self.life) in {True, False}:\n",
        kind="dying",
        finding="P3 begun by one who does not own it",
    ),
    Mutant(
        name="after an outage the living are given no time to beat",
        file="queue/tidier.py",
        old="        if not health.steady(now):\n            return\n        try:",
        new="        try:",
        kind="ill",
        finding="    P3: host",
    ),
    Mutant(
        name="some reports are never made",
        file="reports/publisher.py",
        old="for each in batch for index in range(each.answered, len(each.answers))]",
        new="for each in batch for index in range(each.answered, len(each.answers)) if each.id[-1:] != '7']",
        kind="calm",
        finding="P4 unreported",
    ),
    Mutant(
        name="a letter is reported before its end is written down",
        file="sending/settler.py",
        old="        written, late = await self._settle(batch)\n        del self._settlements",
        new="        self._written(batch, frozenset())\n        await asyncio.sleep(0.05)\n"
        "        written, late = await self._settle(batch)\n        del self._settlements",
        kind="calm",
        finding="P4 reported before it was durable",
    ),
    Mutant(
        name="the drain gives nothing back",
        file="sending/dispatcher.py",
        old="        by_token: dict[str, list[str]] = {}\n        for token, letter in letters:\n",
        new="        by_token: dict[str, list[str]] = {}\n        for token, letter in ():\n",
        kind="rated",
        finding="    P6: host",
    ),
    Mutant(
        name="those who were accepted are sent to again where others were not",
        file="sending/sender.py",
        old="        self._settle(errand.token, moved, delay)\n        if self._log(",
        new="        if delay:\n            moved = moved.evolve(recipients=tuple(type(r)(address=r.address)"
        " for r in moved.recipients))\n        self._settle(errand.token, moved, delay)\n"
        "        if self._log(",
        kind="calm",
        finding="P3 sent twice",
    ),
    Mutant(
        name="an uncertain recipient is sent to as often as it takes",
        file="sending/attempt.py",
        old="    over = doubted and doubts > policy.resends\n",
        new="    over = False\n",
        kind="ill",
        finding="P3 sent twice",
        hours=8.0,
    ),
    Mutant(
        name="what is lost after the dot counts as not sent",
        file="sending/attempt.py",
        old="    doubted = result.verdict is Verdict.UNCERTAIN\n",
        new="    doubted = False\n",
        kind="ill",
        finding="P4 a doubt that is not told",
    ),
    Mutant(
        name="what is said of the account is taken for the recipient's",
        file="sending/reply_rules.py",
        old="        codes=ACCOUNT_REPLIES,\n        action=Action.HOLD,\n        otherwise=Action.HOLD,\n",
        new="        codes=ACCOUNT_REPLIES,\n        action=Action.ANSWER,\n",
        kind="ill",
        finding="P14 failed for no fault of its own",
    ),
    Mutant(
        name="a relay that refuses everybody is asked again too soon",
        file="routing/breaker.py",
        old="self._wait = FIRST_WAIT if news else",
        new="self._wait = FIRST_WAIT / 2.5 if news else",
        kind="ill",
        finding="P14 not obeyed",
    ),
    Mutant(
        name="a reply about a recipient that was on its way before ends what the relay refuses to all",
        file="sending/judge.py",
        old="        if reading.spoken and news:\n",
        new="        if reading.spoken:\n",
        kind="throttled",
        finding="P14 not obeyed",
        hours=1.0,
    ),
    Mutant(
        name="what a relay ordered is written down for nobody",
        file="ratelimit/limiter.py",
        old="                await self._store.order(order, self._clock.epoch())\n",
        new="",
        kind="ordered",
        finding="P14 not obeyed",
    ),
    Mutant(
        name="a route that is blocked blocks all",
        file="sending/dispatcher.py",
        old="        return bool(route.blocked_because()) or not self._in_flight.journal.writable()",
        new="        return any(each.blocked_because() for each in self.routes)",
        kind="routes",
        finding="P13 held up by others",
    ),
    Mutant(
        name="who is in doubt is given to a second relay at once",
        file="sending/failover.py",
        old="        if (result.verdict is Verdict.DEFERRED or _lacks(result)) and address not in out\n",
        new="        if result.verdict in {Verdict.DEFERRED, Verdict.UNCERTAIN} and address not in out\n",
        kind="spare",
        finding="P12 given to a second relay",
    ),
    Mutant(
        name="relays share letters evenly, whatever their weights",
        file="routing/weights.py",
        old="            self._credits[place] += weight\n",
        new="            self._credits[place] += 1\n",
        kind="shared",
        finding="- not by weight",
    ),
    Mutant(
        name="a route that is closed sends",
        file="routing/window.py",
        old="        return self._closed\n",
        new="        return False\n",
        kind="timed",
        finding="- begun outside the window",
        hours=24.0,
    ),
    Mutant(
        name="nobody knows until when a letter is worth something",
        file="intake/placing.py",
        old="        kept = self._expire.get(route, math.inf)\n",
        new="        kept = math.inf\n",
        kind="timed",
        finding="- begun after its time",
        hours=24.0,
    ),
    Mutant(
        name="each replica has all the connections that there are for all of them",
        file="ratelimit/connections.py",
        old="        return min([share for since, share in self._views])\n",
        new="        return self.total\n",
        kind="capped",
        finding="P5 too many connections",
    ),
    Mutant(
        name="of several rates the first one is kept",
        file="ratelimit/gcra.py",
        old="        known = [each for each in (self.allowance, *self.further) if each.letters]\n",
        new="        known = [self.allowance]\n",
        kind="capped",
        finding="P5 too fast",
    ),
    Mutant(
        name="a slot is for a letter, though recipients are counted",
        file="ratelimit/limiter.py",
        old="        self._each = 1 if counts else EVERYBODY",
        new="        self._each = EVERYBODY",
        kind="exact",
        finding="P5 more than a relay allows that was known",
        seed=2,
    ),
    Mutant(
        name="what was used of a quota is forgotten before its time is over",
        file="ratelimit/gcra.py",
        old="    spent = quota.kept(cursor.spent, now, period=period, keep=request.keep)\n",
        new="    spent = quota.kept(cursor.spent, now, period=period, keep=request.keep / 12)\n",
        kind="capped",
        finding="P5 more than a quota",
    ),
    Mutant(
        name="what a relay says of a domain is forgotten",
        file="routing/relay.py",
        old="            held = self.destinations.held(name, now)\n",
        new="            held = None\n",
        kind="narrow",
        finding="P14 not obeyed",
    ),
    Mutant(
        name="what a relay says of somebody holds from the transaction's end on",
        file="sending/permit.py",
        old="        if self.over is None or not self.rules:\n",
        new="        if True:\n",
        kind="narrow",
        finding="P14 not obeyed",
    ),
    Mutant(
        name="who is put off once is given up",
        file="sending/attempt.py",
        old="closed=over or policy.wait(tries, 0.5) is None,",
        new="closed=True,",
        kind="calm",
        finding="P4 given up before its time",
    ),
    Mutant(
        name="nobody reads what the dead left in their journal",
        file="sending/recovery.py",
        old="        trails, replicas = self._journal.left_behind()\n",
        new="        trails, replicas = {}, ()\n",
        kind="dying",
        finding="P11 sent twice, though it was written down",
        seed=28,
    ),
    Mutant(
        name="what the dead left in their journal cannot be read",
        file="sending/recovery.py",
        old="        trails, replicas = self._journal.left_behind()\n",
        new="        raise KeyError\n",
        kind="dying",
        finding="    recovery_failed",
    ),
    Mutant(
        name="whoever is sent to is told as in doubt",
        file="reports/report.py",
        old='        "Uncertain": recipient.uncertain,\n',
        new='        "Uncertain": True,\n',
        kind="calm",
        finding="P11 told as uncertain, and was not",
    ),
    Mutant(
        name="who starts knows nothing of what a relay ordered",
        file="ratelimit/limiter.py",
        old="if self._standing.learn(grant.orders,",
        new="old = self.__dict__.setdefault('at_start', {*grant.orders})\n"
        "        if self._standing.learn({k: v for k, v in grant.orders.items() if k not in old},",
        kind="ordered",
        finding="P14 not obeyed",
    ),
    Mutant(
        name="after a pause a relay is sent to as fast as before",
        file="ratelimit/order.py",
        old="        if now < self.then_until:\n            return self.factor\n",
        new="        if now < self.then_until:\n            return 1.0\n",
        kind="metered",
        finding="P14 told of its limit again and again",
    ),
)


def break_(name: str) -> None:
    """Have the package come with this change in this process, which has not imported it yet.

    Raises:
        ValueError: there is no such mutant, or it no longer fits the sources.
    """
    mutant = next((each for each in MUTANTS if each.name == name), None)
    if mutant is None:
        raise ValueError(f"no such mutant: {name}")
    if not mutant.fits():
        raise ValueError(f"it has no place in {mutant.file} any more, or several: {name}")
    sys.meta_path.insert(0, _Finder(mutant))


def attempt(mutant: Mutant) -> str:
    """Try a mutant; the line by which its world found it out, empty where none did.

    Raises:
        RuntimeError: it cannot be tried.
    """
    numbers = {"seed": mutant.seed, "worlds": mutant.worlds, "hours": mutant.hours}
    words = [mutant.kind, "--stop", *(f"--{name}={each}" for name, each in numbers.items())]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "simulation", *words, "--mutant", mutant.name],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it hangs for {LONGEST:g} s"
    if ended.returncode not in {0, 1} or "Traceback" in ended.stderr:
        raise RuntimeError(f"{mutant.name}: {ended.stderr[-2000:]}")
    lines = ended.stdout.splitlines()
    return next((each for each in lines if each.startswith(mutant.finding)), "")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is changed."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._module = "mailsender." + mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        del path, target
        if fullname != self._module:
            return None
        source = PACKAGE / self._mutant.file
        loader = _Loader(fullname, str(source))
        loader.mutant = self._mutant
        return importlib.util.spec_from_loader(fullname, loader, origin=str(source))


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads it with its change."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader.get_code`."""
        del fullname
        text = Path(self.path).read_text("utf-8").replace(self.mutant.old, self.mutant.new)
        return compile(text, self.path, "exec", dont_inherit=True)
