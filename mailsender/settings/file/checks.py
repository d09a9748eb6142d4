"""What can only be judged over several keys of the file. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mailsender.routing.plan import DEFAULT
from mailsender.routing.presets import PRESETS, limits_of
from mailsender.routing.reply_rule import checked
from mailsender.routing.retry import read_schedule
from mailsender.routing.window import read_window
from mailsender.settings.file.faults import Fault, nearest
from mailsender.settings.file.lines import Path
from mailsender.settings.file.notations import counts_recipients, parse_rate
from mailsender.settings.file.relays import RelayTable
from mailsender.settings.file.routes import MatchTable, RouteTable
from mailsender.settings.file.rules import reply_rule
from mailsender.settings.file.schema import FileTables

TAKEN: Final = "cursor"
"""The document of the relay `default`, which is there from the time of one relay; see `ratelimit.mongo`."""


def faults_of(tables: FileTables, *, smtp: bool) -> list[Fault]:
    """All of them. `smtp`: `SMTP_*` are a relay, too, and a route unless the file has one of that name."""
    found: list[Fault] = []
    if smtp and DEFAULT in tables.relays:
        text = "SMTP_HOST is the relay of this name; leave that out, or give this one another name"
        found.append(Fault(("relays", DEFAULT), text))
    if not smtp and DEFAULT not in tables.routes:
        found.append(Fault(("routes", DEFAULT), "is missing: letters take it that no other route is for"))
    if TAKEN in tables.relays:
        text = "a relay cannot have this name: the slots of the relay default are kept under it"
        found.append(Fault(("relays", TAKEN), text))
    for name, relay in tables.relays.items():
        found += _of_relay(relay, ("relays", name))
    known = {**dict.fromkeys(tables.relays), **({DEFAULT: None} if smtp else {})}
    for name, route in tables.routes.items():
        found += _of_route(name, route, ("routes", name), known)
    return found


def _of_relay(relay: RelayTable, path: Path) -> Iterator[Fault]:
    logs_in = bool(relay.password or relay.password_file or relay.oauth)
    if logs_in and relay.tls == "none" and not relay.auth_cleartext:
        text = "is none, so the password would be sent in clear text; auth_cleartext = true allows it"
        yield Fault((*path, "tls"), text)
    if relay.user and not logs_in:
        yield Fault((*path, "user"), "has neither password, password_file nor oauth to log in with")
    if relay.preset and relay.preset not in PRESETS:
        yield Fault((*path, "preset"), f"there is no preset {relay.preset}{nearest(relay.preset, PRESETS)}")
    yield from _of_counts(relay, path)
    yield from _of_rules(relay, path)


def _of_counts(relay: RelayTable, path: Path) -> Iterator[Fault]:
    """What rates and quota count has to fit: one write leases slots, which are for the one or the other."""
    limits = limits_of(relay.preset)
    counted = {counts_recipients(each, limits) for each in relay.rate or map(parse_rate, limits.rates)}
    if len(counted) > 1:
        text = "counts messages and recipients; all rates of a relay count the same"
        yield Fault((*path, "rate"), text)
    elif relay.quota is not None and True in counted and not counts_recipients(relay.quota, limits):
        yield Fault((*path, "quota"), "counts messages, and the rate recipients; let both count recipients")
    for domain, each in relay.destinations.items():
        if any(rate.recipients for rate in each.rate):
            text = "counts recipients; the limits of a destination count messages"
            yield Fault((*path, "destinations", domain, "rate"), text)


def _of_rules(relay: RelayTable, path: Path) -> Iterator[Fault]:
    rules = []
    for index, rule in enumerate(relay.rules):
        place = (*path, "rules", index)
        try:
            rules.append(reply_rule(rule, str(path[-1]), index))
        except ValueError as error:
            key, _, text = str(error).partition(": ")
            yield Fault((*place, *key.split(".")), text)
    try:
        checked(rules)
    except ValueError as error:
        yield Fault((*path, "rules"), str(error).removeprefix("rules: "))


def _of_route(name: str, route: RouteTable, path: Path, relays: Mapping[str, None]) -> Iterator[Fault]:
    if name == DEFAULT and route.match is not None:
        yield Fault((*path, "match"), "cannot be here: this route is for what no other is for")
    if name != DEFAULT and route.match is None and not route.open:
        yield Fault(path, "no letter would take it; give it match, or open = true")
    if route.match is not None:
        yield from _of_match(route.match, (*path, "match"))
    yield from _of_times(route, path)
    weighed = [each.weight is not None for each in route.relays]
    if any(weighed) and not all(weighed):
        place = (*path, "relays", weighed.index(False))
        yield Fault(place, "has no weight, and others have; give one to each, or to none")
    seen: set[str] = set()
    named = [((*path, "relays", index), each.name) for index, each in enumerate(route.relays)]
    named += [((*path, "fallback", index), each) for index, each in enumerate(route.fallback)]
    for place, relay in named:
        if relay not in relays:
            yield Fault(place, f"there is no relay {relay}{nearest(relay, list(relays))}")
        elif relay in seen:
            yield Fault(place, f"{relay} stands there twice")
        seen.add(relay)


def _of_times(route: RouteTable, path: Path) -> Iterator[Fault]:
    for key, text, read in (("retry", route.retry, read_schedule), ("window", route.window, read_window)):
        try:
            if text:
                read(text)
        except ValueError as error:
            yield Fault((*path, key), str(error))


def _of_match(match: MatchTable, path: Path) -> Iterator[Fault]:
    if not match.model_fields_set:
        yield Fault(path, "is empty, and would fit every letter; that is what the route default is for")
    if match.larger is not None and match.smaller is not None and match.smaller <= match.larger + 1:
        yield Fault((*path, "smaller"), "no letter is larger than larger and smaller than this")
