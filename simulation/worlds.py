"""The kinds of worlds: what each is made of, and what its script does to it, drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mailsender.model.letter import DEFAULT_ROUTE, Phase
from mailsender.ratelimit.gcra import Allowance
from simulation.design import Design, Line
from simulation.judge import Obeyed
from simulation.manners import Limit, Mood, Says, Traits
from simulation.replicas import Running
from simulation.world import World

HOUR = 3600.0

FREEZES = (5.0, 40.0, 100.0, 400.0)
"""Seconds."""

HELD = 0.6
"""Seconds. A replica that was told so holds its letters for a second, counted from the first such reply, and
then tries with one at a time, ever more rarely."""

STOP = Says(code=535, enhanced="5.7.8", text="the login is not valid any more", phase=Phase.MAIL, holds=HELD)
THROTTLED = Says(
    code=454,
    enhanced="4.3.0",
    text="Throttling failure: Maximum sending rate exceeded",
    phase=Phase.DOT,
    holds=HELD,
)
SPENT = Says(
    code=550, enhanced="5.4.5", text="Daily user sending limit exceeded", phase=Phase.MAIL, holds=HELD
)
BUSY = Says(code=451, enhanced="4.3.2", text="try again later", phase=Phase.MAIL, holds=HELD)
MOODS = (STOP, THROTTLED, SPENT, BUSY)
"""What a relay says to everybody for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of world. `design` and `script` draw from the chance that they are given, or the world's."""

    name: str
    hours: float
    design: Callable[[random.Random], Design]
    script: Callable[[World, float], None]


def run_seed(kind: Kind, seed: int, hours: float | None = None) -> World:
    """The world of a seed, ready to run for so many seconds."""
    world = World(kind.design(random.Random(f"design/{kind.name}/{seed}")), f"{kind.name}/{seed}")
    kind.script(world, (hours or kind.hours) * HOUR)
    return world


# --- what may happen -------------------------------------------------------------------------------


def letters(world: World, seconds: float, bursts: int, *, most: int = 20, people: int = 1) -> None:
    """Batches at any time: now and then larger ones, and people of whom nobody has heard."""
    chance = world.chance

    def local(place: int) -> str:
        del place
        return chance.choice(("nobody", "full")) if chance.random() < 0.08 else "r"

    for _ in range(bursts):
        count = chance.randint(1, most * 10 if chance.random() < 0.1 else most)
        world.at(chance.uniform(0, seconds), partial(world.publish, count, people=people, local=local))


def someone(world: World, action: Callable[[Running], None]) -> None:
    """Do something to a replica that lives, if there is one."""
    living = world.living()
    if living:
        action(world.chance.choice(living))


def amid(world: World, at: float, action: Callable[..., object], *args: object, most: int = 60) -> None:
    """Do something at a time at which letters are on their way."""
    world.at(max(0.0, at - world.chance.uniform(0, 1)), world.publish, world.chance.randint(most // 6, most))
    world.at(at, action, *args)


def deaths(world: World, seconds: float, count: int) -> None:
    """Replicas are killed, at any moment or between what the store did and their learning of it."""
    for _ in range(count):
        at, call = world.chance.uniform(0, seconds), world.chance.choice(("claim", "settle", "insert", ""))
        if call:
            amid(world, at, someone, world, partial(world.kill_after, call=call))
        else:
            amid(world, at, someone, world, world.kill)


def freezes(
    world: World, seconds: float, count: int, *, lengths: Sequence[float] = FREEZES, most: int = 60
) -> None:
    """Replicas are frozen, for less than their life or for more."""
    for _ in range(count):
        at, lasts = world.chance.uniform(0, seconds), world.chance.choice(lengths)
        amid(world, at, someone, world, partial(world.freeze, seconds=lasts), most=most)


def drains(world: World, seconds: float, count: int) -> None:
    """Replicas are stopped politely, each when another has begun."""

    def roll() -> None:
        someone(world, world.drain)
        world.start()

    for _ in range(count):
        amid(world, world.chance.uniform(0, seconds), roll)


def outages(world: World, seconds: float, count: int) -> None:
    """MongoDB or Kafka is away, or loses answers."""
    for _ in range(count):
        at, lasts = world.chance.uniform(0, seconds), world.chance.choice((3.0, 30.0, 200.0))
        roll = world.chance.random()
        if roll < 0.5:
            amid(world, at, world.store_away, lasts)
        elif roll < 0.7:
            amid(world, at, world.store_loses, lasts, world.chance.choice((0.1, 0.5)))
        else:
            amid(world, at, world.broker_away, lasts)


def moods(world: World, seconds: float, count: int) -> None:
    """Relays go away, refuse the login, lose connections, or say something to everybody."""
    for _ in range(count):
        name = world.chance.choice(list(world.relays))
        at, lasts = world.chance.uniform(0, seconds), world.chance.choice((20.0, 300.0, 3000.0))
        mood = world.chance.choice((Mood(away=True), Mood(login=True), Mood(loses=0.6), None, None))
        amid(world, at, world.relay_mood, name, lasts, mood or Mood(says=world.chance.choice(MOODS)))


# --- the worlds ------------------------------------------------------------------------------------


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


def _one(chance: random.Random) -> Design:
    return Design(
        lines={"one": Line(traits=_traits(chance, "one.test"), letters=chance.choice((0, 50)))},
        replicas=chance.choice((1, 2, 3)),
        journal=chance.random() < 0.5,
    )


def _many(chance: random.Random) -> Design:
    """The same with several replicas."""
    return replace(_one(chance), replicas=chance.choice((2, 3)))


def _rated(chance: random.Random) -> Design:
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


def _throttled(chance: random.Random) -> Design:
    """A relay that allows less than the service was told."""
    limit = Limit(count=chance.choice((5, 14)), period=1.0, says=THROTTLED)
    return Design(
        lines={"one": Line(traits=Traits(host="one.test", limits=(limit,)), sessions=8)},
        replicas=chance.choice((1, 2)),
        obeyed=Obeyed.NOBODY,
    )


def _several(chance: random.Random) -> Design:
    """A route over two relays. Where the second one is away the first one is asked although it said wait."""
    return Design(
        lines={name: Line(traits=_traits(chance, f"{name}.test")) for name in ("one", "two")},
        routes={DEFAULT_ROUTE: ("one", "two")},
        replicas=chance.choice((1, 2, 3)),
        obeyed=Obeyed.NOBODY,
        journal=chance.random() < 0.5,
    )


def _routes(chance: random.Random) -> Design:
    """Three routes, of which one has a relay that is always well."""
    lines = {name: Line(traits=_traits(chance, f"{name}.test")) for name in ("one", "two")}
    return Design(
        lines={**lines, "well": Line(traits=Traits(host="well.test"))},
        routes={DEFAULT_ROUTE: ("one",), "other": ("two",), "express": ("well",)},
        replicas=chance.choice((1, 2)),
        prompt={"express": 3.0},
    )


def _calm(world: World, seconds: float) -> None:
    letters(world, seconds, 16, people=world.chance.choice((1, 3, 12)))


def _dying(world: World, seconds: float) -> None:
    _calm(world, seconds)
    deaths(world, seconds, 4)
    freezes(world, seconds, 4)
    drains(world, seconds, 3)


def _ill(world: World, seconds: float) -> None:
    _calm(world, seconds)
    outages(world, seconds, 4)
    moods(world, seconds, 6)


def _everything(world: World, seconds: float) -> None:
    _calm(world, seconds)
    for trouble in (deaths, freezes, drains, outages, moods):
        trouble(world, seconds, 3)


def _crowded(world: World, seconds: float) -> None:
    letters(world, seconds, 8, most=60)
    freezes(world, seconds, 4, lengths=(0.3, 1.0, 5.0), most=200)
    deaths(world, seconds, 3)
    drains(world, seconds, 2)


def _mass(world: World, seconds: float) -> None:
    """Many letters."""
    letters(world, seconds, 20, most=600, people=world.chance.choice((1, 1, 5)))
    deaths(world, seconds, 4)
    freezes(world, seconds, 2)
    outages(world, seconds, 2)


def _neighbours(world: World, seconds: float) -> None:
    """The relays of two routes are ill in turn, with much waiting; letters of the third go on."""
    chance = world.chance
    for name in ("one", "two"):
        for _ in range(2):
            at, lasts = chance.uniform(0, seconds), chance.choice((300.0, 3000.0))
            mood = chance.choice((Mood(away=True), Mood(login=True), Mood(says=BUSY), Mood(says=STOP)))
            world.at(at, world.relay_mood, name, lasts, mood)
            world.at(at + 1, world.publish, chance.randint(20, 100))
            world.at(at + 1, world.put, chance.randint(20, 100), "other")
            for _ in range(3):  # while those have to wait
                world.at(at + chance.uniform(2, lasts), world.put, 1, "express")
    letters(world, seconds, 8)


KINDS: Mapping[str, Kind] = {
    each.name: each
    for each in (
        Kind(name="calm", hours=48, design=_one, script=_calm),
        Kind(name="dying", hours=48, design=_many, script=_dying),
        Kind(name="ill", hours=48, design=_many, script=_ill),
        Kind(name="rated", hours=48, design=_rated, script=_crowded),
        Kind(name="throttled", hours=48, design=_throttled, script=_calm),
        Kind(name="several", hours=48, design=_several, script=_everything),
        Kind(name="routes", hours=48, design=_routes, script=_neighbours),
        Kind(name="mass", hours=48, design=_many, script=_mass),
        Kind(name="everything", hours=48, design=_many, script=_everything),
    )
}
