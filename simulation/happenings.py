"""What may happen in a world: letters come, replicas die, stand still and end, and what they need is ill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from simulation.manners import Mood
from simulation.replicas import Running
from simulation.sayings import MOODS
from simulation.world import World

FREEZES = (5.0, 40.0, 100.0, 400.0)
"""Seconds."""


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
