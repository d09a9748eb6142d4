"""What the kinds of worlds are made of, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from mailsender.model.letter import Phase
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Match
from simulation.design import RETRY, UNLIMITED, Design, Line, route
from simulation.manners import Limit, Traits
from simulation.sayings import ELSEWHERE, HOUR, LATER, LIMITED, NO_MORE, REST, SLOWER, THROTTLED, USED_UP


def _traits(chance: random.Random, host: str) -> Traits:
    """A relay as any other: some take transactions pipelined, some are slow, some lose connections."""
    return Traits(
        host=host,
        depth=chance.choice((1, 2)),
        sessions=chance.choice((0, 0, 3)),
        recipients=chance.choice((0, 0, 7)),
        letters_a_session=chance.choice((0, 0, 20)),
        greylist=chance.choice((0.0, 0.0, 45.0)),
        lost_before=chance.choice((0.0, 0.02)),
        lost_after=chance.choice((0.0, 0.02)),
        slow=chance.choice((0.0, 0.002)),
    )


def one(chance: random.Random) -> Design:
    """A relay as any other."""
    return Design(
        lines={"one": Line(traits=_traits(chance, "one.test"), letters=chance.choice((0, 50)))},
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def many(chance: random.Random) -> Design:
    """The same with several replicas."""
    return replace(one(chance), replicas=chance.choice((2, 3)))


def rated(chance: random.Random) -> Design:
    """A relay that is told of exactly as it is, and that never has to say so."""
    letters, period = chance.choice(((14, 1.0), (30, 1.0), (20, 60.0)))
    allowance = Allowance(
        letters=letters,
        period=period,
        burst=chance.choice((1, 1, 5, 14)),
        quota=chance.choice((0, 0, 400)),
    )
    return Design(
        lines={"one": Line(traits=Traits(host="one.test", depth=chance.choice((1, 2))), allowance=allowance)},
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def throttled(chance: random.Random) -> Design:
    """A relay that allows less than the service was told."""
    limit = Limit(count=chance.choice((5, 14)), period=1.0, says=THROTTLED)
    return Design(
        lines={"one": Line(traits=Traits(host="one.test", limits=(limit,)), sessions=8)},
        replicas=chance.choice((1, 2)),
    )


def several(chance: random.Random) -> Design:
    """A route over two relays."""
    return Design(
        lines={name: Line(traits=_traits(chance, f"{name}.test")) for name in ("one", "two")},
        routes=(route("one", "two"),),
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def ordered(chance: random.Random) -> Design:
    """A relay whose rules are known, with a rate or without."""
    rate = chance.choice((UNLIMITED, Allowance(letters=14, period=1.0, burst=5)))
    return Design(
        lines={"one": Line(traits=Traits(host="one.test", depth=2), allowance=rate, rules=(REST,))},
        replicas=chance.choice((2, 3)),
    )


def routes(chance: random.Random) -> Design:
    """Routes of which one has a relay that is always well; letters may have parts on two of the others."""
    lines = {name: Line(traits=_traits(chance, f"{name}.test")) for name in ("one", "two")}
    return Design(
        lines={**lines, "well": Line(traits=Traits(host="well.test"))},
        routes=(
            route("two", name="other", match=Match(streams=("other",))),
            route("two", name="abroad", match=Match(destinations=(ELSEWHERE,))),
            route("well", name="express", match=Match(streams=("express",))),
            route("one"),
        ),
        replicas=chance.choice((1, 2)),
        prompt={"express": 3.0},
    )


def shared(chance: random.Random) -> Design:
    """Relays that share letters by their weights, all of them well, with one that is never needed."""
    weights = chance.choice(((3, 1), (1, 1), (5, 2)))
    names = ("one", "two", "three")
    return Design(
        lines={name: Line(traits=Traits(host=f"{name}.test", depth=chance.choice((1, 2)))) for name in names},
        routes=(route("one", "two", weights=weights, fallback=("three",)),),
        replicas=chance.choice((1, 2, 3)),
        even=True,
    )


def spare(chance: random.Random) -> Design:
    """A provider's account with a limit by the day, one that shares with it, and one behind them."""
    spent = Limit(count=chance.choice((40, 150)), period=chance.choice((6, 24)) * HOUR, says=USED_UP)
    main = Traits(host="one.test", limits=(spent,), lost_before=0.02, lost_after=chance.choice((0.0, 0.02)))
    weights = chance.choice(((), (2, 1)))
    retry = replace(RETRY, resends=chance.choice((0, 0, 1)))
    return Design(
        lines={
            "one": Line(traits=main, preset="google-user"),
            "two": Line(traits=_traits(chance, "two.test")),
            "three": Line(traits=_traits(chance, "three.test"), sessions=2),
        },
        routes=(route("one", "two", weights=weights, fallback=("three",), retry=retry),),
        retry=retry,
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def metered(chance: random.Random) -> Design:
    """A provider's account, whose rules are known, that allows less than the file says, or just as much."""
    limit = Limit(count=chance.choice((5, 10, 15)), period=1.0, says=LIMITED)
    return Design(
        lines={
            "one": Line(
                traits=Traits(host="one.test", limits=(limit,)),
                allowance=Allowance(letters=14, period=1.0),
                preset="ses",
                sessions=10,
            )
        },
        replicas=chance.choice((1, 2)),
        moderate=("one",),
    )


def exact(chance: random.Random) -> Design:
    """Accounts whose limits the file has as they are, which count recipients, and count exactly.

    What begins is what a rate is kept by. Where messages are counted as they end there is little to tell.
    """
    rate, quota = chance.choice((5, 14)), chance.choice((1500, 5000))
    phase = chance.choice((Phase.MAIL, Phase.DOT))
    limits = (
        Limit(count=rate, period=1.0, says=replace(LIMITED, phase=phase), recipients=True),
        Limit(count=quota, period=24 * HOUR, says=replace(NO_MORE, phase=phase), recipients=True),
    )
    allowance = Allowance(
        letters=rate,
        period=1.0,
        burst=0,
        quota=quota,
        quota_period=24 * HOUR,
        by_recipient=True,
        quota_by_recipient=True,
    )
    traits = Traits(host="one.test", limits=limits)
    return Design(
        lines={"one": Line(traits=traits, allowance=allowance, preset="ses", sessions=10, recipients=50)},
        replicas=chance.choice((1, 2, 3)),
        silent=("one",) if phase is Phase.MAIL else (),
        moderate=("one",),
    )


def capped(chance: random.Random) -> Design:
    """A relay with two rates, a quota for any day and few connections, all of which is known."""
    total = chance.choice((2, 3))
    allowance = Allowance(letters=5, period=1.0, quota=chance.choice((0, 300)), quota_period=24 * HOUR)
    return Design(
        lines={
            "one": Line(
                traits=Traits(host="one.test"),
                allowance=allowance,
                further=(Allowance(letters=30, period=60.0, burst=chance.choice((1, 10))),),
                total=total,
            )
        },
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def narrow(chance: random.Random) -> Design:
    """A relay that speaks of single domains and recipients, by rules that are known."""
    return Design(
        lines={
            "one": Line(traits=Traits(host="one.test", depth=chance.choice((1, 2))), rules=(SLOWER, LATER)),
        },
        replicas=chance.choice((1, 2)),
    )


def timed(chance: random.Random) -> Design:
    """A route that sends in office hours, and one whose letters are worth something for a while."""
    window = "Mon-Fri 08:00-20:00 Europe/Moscow"
    return Design(
        lines={
            "one": Line(traits=_traits(chance, "one.test")),
            "two": Line(traits=_traits(chance, "two.test")),
        },
        routes=(
            route("one", "two", name="office", match=Match(streams=("office",)), window=window),
            route("two", name="brief", match=Match(streams=("brief",)), expire=1800.0),
            route("one"),
        ),
        replicas=chance.choice((1, 2)),
        hours={"office": _office},
    )


def _office(at: float) -> bool:
    """Whether it is a weekday's office hour in Moscow."""
    there = datetime.fromtimestamp(at, ZoneInfo("Europe/Moscow"))
    return there.weekday() < 5 and 8 <= there.hour < 20
