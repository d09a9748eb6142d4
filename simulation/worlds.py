"""The kinds of worlds: what each is made of, and what its script does to it, drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from simulation import designs
from simulation.design import Design
from simulation.happenings import amid, deaths, drains, freezes, letters, moods, outages
from simulation.manners import Mood
from simulation.sayings import BUSY, CROWDED, ELSEWHERE, HOUR, ORDERS, QUICK, STOP, THERE
from simulation.world import DOMAIN, World


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


def _commanded(world: World, seconds: float) -> None:
    """The relay orders now and then to wait, amid letters, and replicas die."""
    _calm(world, seconds)
    for _ in range(8):
        at, lasts = world.chance.uniform(0, seconds), world.chance.choice((20.0, 900.0))
        amid(world, at, world.relay_mood, "one", lasts, Mood(says=world.chance.choice(ORDERS)))
        world.at(at + world.chance.uniform(10, 290), world.publish, world.chance.randint(5, 30))
    deaths(world, seconds, 2)
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
            world.at(at + 1, partial(world.publish, chance.randint(20, 100), stream="other"))
            world.at(at + 1, partial(world.publish, 10, people=4, domains=(DOMAIN, ELSEWHERE)))
            for _ in range(3):  # while those have to wait
                world.at(at + chance.uniform(2, lasts), partial(world.publish, 1, stream="express"))
    letters(world, seconds, 8)


def _shares(world: World, seconds: float) -> None:
    """Nothing is wrong, but that replicas come and go."""
    letters(world, seconds, 16, most=80)
    drains(world, seconds, 2)


def _spending(world: World, seconds: float) -> None:
    """More is sent than the account allows, while relays and replicas are ill."""
    letters(world, seconds, 24, people=world.chance.choice((1, 3)))
    deaths(world, seconds, 3)
    moods(world, seconds, 4)
    outages(world, seconds, 2)


def _flood(world: World, seconds: float) -> None:
    """So many letters that there is something to send most of the time."""
    for number in range(2):
        world.at(
            seconds * number / 2 + world.chance.uniform(0, 60), world.publish, world.chance.randint(800, 1200)
        )


def _groups(world: World, seconds: float) -> None:
    """Letters to a few people each, and replicas that come and go."""
    for people in (1, 2, 5):
        letters(world, seconds, 4, most=60, people=people)
    drains(world, seconds, 3)


def _crowd(world: World, seconds: float) -> None:
    """Replicas come and go, but none of them stands still: its connections would, too."""
    letters(world, seconds, 8, most=60)
    deaths(world, seconds, 4)
    drains(world, seconds, 4)


def _busy(world: World, seconds: float) -> None:
    """What the relay says of a domain, or of somebody in it, amid letters to others."""
    chance = world.chance
    for _ in range(8):
        at, lasts = chance.uniform(0, seconds), chance.choice((10.0, 600.0))
        some = partial(world.publish, people=chance.choice((1, 4)), domains=(DOMAIN, THERE, ELSEWHERE))
        world.at(at, world.relay_mood, "one", lasts, Mood(says=chance.choice((CROWDED, QUICK)), domain=THERE))
        for _ in range(4):
            world.at(at + chance.uniform(-1, lasts + 60), some, chance.randint(5, 30))
    deaths(world, seconds, 2)
    drains(world, seconds, 2)


def _in_time(world: World, seconds: float) -> None:
    """Letters at any time of the day, while relays are ill now and then."""
    for stream in ("office", "brief", ""):
        for _ in range(8):
            at, count = world.chance.uniform(0, seconds), world.chance.randint(1, 20)
            world.at(at, partial(world.publish, count, stream=stream))
    for mood in (Mood(away=True), Mood(login=True), Mood(says=BUSY)):  # for longer than some letters last
        at = world.chance.uniform(0, seconds)
        world.at(at, world.relay_mood, "two", 3000.0, mood)
        world.at(at + world.chance.uniform(1, 600), partial(world.publish, 10, stream="brief"))
    moods(world, seconds, 4)
    deaths(world, seconds, 2)


KINDS: Mapping[str, Kind] = {
    each.name: each
    for each in (
        Kind(name="calm", hours=48, design=designs.one, script=_calm),
        Kind(name="dying", hours=48, design=designs.many, script=_dying),
        Kind(name="ill", hours=48, design=designs.many, script=_ill),
        Kind(name="rated", hours=48, design=designs.rated, script=_crowded),
        Kind(name="throttled", hours=48, design=designs.throttled, script=_calm),
        Kind(name="ordered", hours=48, design=designs.ordered, script=_commanded),
        Kind(name="several", hours=48, design=designs.several, script=_everything),
        Kind(name="routes", hours=48, design=designs.routes, script=_neighbours),
        Kind(name="shared", hours=48, design=designs.shared, script=_shares),
        Kind(name="spare", hours=48, design=designs.spare, script=_spending),
        Kind(name="metered", hours=24, design=designs.metered, script=_flood),
        Kind(name="exact", hours=48, design=designs.exact, script=_groups),
        Kind(name="capped", hours=48, design=designs.capped, script=_crowd),
        Kind(name="narrow", hours=48, design=designs.narrow, script=_busy),
        Kind(name="timed", hours=72, design=designs.timed, script=_in_time),
        Kind(name="mass", hours=48, design=designs.many, script=_mass),
        Kind(name="everything", hours=48, design=designs.many, script=_everything),
    )
}
