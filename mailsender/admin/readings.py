"""What each metric of a replica is now, read from the part that counts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mailsender.admin.relay_state import orders_of
from mailsender.model.letter import Phase
from mailsender.observe import metrics as m
from mailsender.routing.relay import Relay
from mailsender.service import Replica


def readings(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    """Every metric with its value. Nobody outside is asked: what waits is as it was counted last."""
    yield from _coming_in(replica)
    yield from _waiting(replica)
    yield from _going_out(replica)
    yield from _ended(replica)
    yield from _itself(replica)


def _coming_in(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    intake, state = replica.intake, replica.intake.state
    yield m.RECORDS, state.records
    yield m.RECORDS_LOST, state.records_lost
    yield m.DEAD_LETTERS, state.dead_letters
    taken = state.letters - state.bad_letters
    yield m.LETTERS_IN, {"taken": taken, "refused": state.bad_letters}
    known = {"replay": state.replays, "joined": state.joined, "clash": state.clashes}
    yield m.LETTERS_KNOWN, known
    yield m.LAG, _lag(replica)
    yield m.INSERT, intake.times


def _lag(replica: Replica) -> dict[tuple[str, ...], float]:
    """By topic and partition, of as many as are told."""
    lag = sorted(replica.parts.source.lag().items(), key=lambda each: -each[1])
    return {(topic, str(partition)): number for (topic, partition), number in lag[: m.PARTITIONS]}


def _waiting(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    stats, in_flight = replica.tidier.stats, replica.in_flight
    if stats is not None:
        yield m.WAITING, {"due": stats.due, "later": max(0, stats.awaiting - stats.due)}
        yield m.OLDEST_WAITING, stats.oldest_due
        yield m.UNREPORTED, stats.unreported
        yield m.OLDEST_UNREPORTED, stats.oldest_unreported
    yield m.COUNTS_AGE, replica.tidier.stats_age
    yield m.IN_FLIGHT, len(in_flight)
    yield m.IN_FLIGHT_BYTES, in_flight.bytes
    held = {"settler": replica.settler.unreported_bytes, "publisher": replica.reporter.bytes}
    yield m.HELD_BYTES, held


def _going_out(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    relays = replica.relays
    yield m.CLAIM, replica.dispatcher.times
    yield m.ATTEMPTS, {key: number for relay in relays for key, number in _attempts(relay).items()}
    refused: dict[tuple[str, ...], float] = {
        (each.name, stage): n for each in relays for stage, n in each.pool.refused.items()
    }
    yield m.SESSIONS_REFUSED, refused
    yield m.RELAY_GOES, {each.name: int(each.free and not each.reason) for each in relays}
    yield m.SESSIONS_OPEN, {each.name: len(each.pool) for each in relays}
    yield m.SESSIONS_BUSY, {each.name: each.pool.busy for each in relays}
    yield m.SLOTS_GRANTED, {each.name: each.limiter.granted for each in relays}
    yield m.SLOTS_LAPSED, {each.name: each.limiter.lapsed for each in relays}
    yield m.SLOTS_AWAITED, {each.name: each.limiter.awaited for each in relays}
    yield m.SLOT_WAITERS, {each.name: each.limiter.waiting for each in relays}
    left = {each.name: each.limiter.quota_left for each in relays}
    yield m.QUOTA_LEFT, {name: number for name, number in left.items() if number is not None}
    waiters: dict[tuple[str, ...], float] = {
        (each.name, pattern): limiter.waiting
        for each in relays
        if each.destinations is not None
        for pattern, limiter in each.destinations.limiters.items()
    }
    yield m.DESTINATION_WAITERS, waiters
    now = replica.clock.monotonic()
    yield m.ORDERS, {key: number for relay in relays for key, number in _orders(relay, now).items()}


def _orders(relay: Relay, now: float) -> Mapping[tuple[str, ...], float]:
    """By relay and what they cover."""
    counted: dict[tuple[str, ...], float] = {(relay.name, scope): 0 for scope in m.SCOPES}
    for key in orders_of(relay):
        if (row := (relay.name, key.partition(":")[0])) in counted:  # the store may hold anything
            counted[row] += 1
    counted[relay.name, "recipient"] = relay.orders.count(now)
    return counted


def _attempts(relay: Relay) -> Mapping[tuple[str, ...], float]:
    """By relay, stage and class of reply."""
    counted: dict[tuple[str, ...], float] = {(relay.name, Phase.DOT, "2xx"): relay.accepted}
    for (stage, code), number in relay.replies.items():
        key = relay.name, stage, m.reply_class(code)
        counted[key] = counted.get(key, 0) + number
    return counted


def _ended(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    counted, reports = replica.counted(), replica.reporter.state
    yield m.OUTCOMES, {each: counted[each] for each in ("sent", "error", "deferred", "uncertain")}
    watch = replica.suppression
    yield m.SUPPRESSED, watch.hits
    yield m.SUPPRESSIONS, {"learned": watch.learned, "lifted": watch.lifted, "forgotten": watch.forgotten}
    yield m.RELEASED, counted["released"]
    yield m.LATE, counted["late"]
    yield m.RECOVERED, counted["recovered"]
    yield m.LOST, replica.heartbeat.lost
    yield m.RECLAIMED, replica.tidier.reclaimed
    yield m.SETTLE, replica.settler.times
    yield m.ACCEPTANCE, replica.settler.since_records
    yield m.REPORTS, {"published": reports.published, "given_up": reports.given_up}
    yield m.SWEPT, reports.swept
    yield m.REPORTS_WAITING, reports.waiting
    yield m.REPORT, replica.reporter.times
    yield m.TO_REPORT, replica.reporter.since_records


def _itself(replica: Replica) -> Iterator[tuple[m.Definition, m.Value]]:
    found = {each.part for each in replica.conditions.now()}
    yield m.READY, not replica.not_ready_because()
    yield m.CONDITION, {part: part in found for part in m.PARTS}
    yield m.STALLS, replica.watchdog.stalls
    yield m.LONGEST_STALL, replica.watchdog.longest
    hits = {
        "queue_max_letters": replica.posts_refused,
        "bytes_in_flight": replica.dispatcher.held_up,
        "unsettled": replica.settler.held_up,
        "report_bytes": replica.reporter.state.left_to_sweep,
        "daily_quota": sum(relay.limiter.exhausted for relay in replica.relays),
    }
    yield m.LIMITS_HIT, hits
