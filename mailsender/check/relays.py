"""What `mailsender check` says of the relays: of each one's settings, and of a session with it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mailsender.app import build_relays
from mailsender.check.findings import Finding
from mailsender.check.probe import probe_relay
from mailsender.model.clock import SystemClock
from mailsender.routing.patterns import named_in
from mailsender.routing.plan import DEFAULT, RelayPlan
from mailsender.settings.environment import Settings
from mailsender.settings.file.relays import RelayTable
from mailsender.settings.links import in_file, links_of
from mailsender.settings.relays import plan_of
from mailsender.smtp.connect import SmtpConfig
from mailsender.smtp.credentials import TokenEndpoint
from mailsender.smtp.hosts import is_whole
from mailsender.smtp.of_file import file_words

AMAZON = ".amazonaws.com"

NO_SIGNATURES = (
    "DKIM_KEYS is set, and SES writes Date and Message-ID anew, so that no signature will do; leave it out"
    " and let SES sign"
)


def judge_file(settings: Settings) -> Iterator[Finding]:
    """What can be said of the file's relays without asking anybody."""
    config = settings.config
    if config is None:
        return
    yield Finding(part="settings", level="ok", text=f"MAILSENDER_CONFIG: {config.path} is complete")
    links = links_of(settings)
    taken = {name for route in plan_of(settings).routes for name in (*route.relays, *route.fallback)}
    for name, relay in config.tables.relays.items():
        for text in (*_of_link(settings, links[name]), *_in_the_open(relay)):
            yield Finding(part="settings", level="warning", text=f"relays.{name}{text}")
        if name not in taken:
            yield Finding(part="settings", level="warning", text=f"relays.{name}: no route leads to it")
    yield from _untaken(settings)
    yield from _renewed_twice(links)
    if not settings.smtp_host and DEFAULT not in taken and settings.smtp_password.get_secret_value():
        text = "SMTP_PASSWORD is set, and SMTP_HOST is not: nobody is told it"
        yield Finding(part="settings", level="warning", text=text)


def _untaken(settings: Settings) -> Iterator[Finding]:
    """The routes on which letters would wait that name no sender of their own."""
    plan, service = plan_of(settings), settings.sender[1]
    takers = {each.name for each in plan.relays if not each.senders or named_in(each.senders, service)}
    for route in plan.routes:
        if not takers.isdisjoint((*route.relays, *route.fallback)):
            continue
        senders = route.match.senders if route.match is not None else ()
        elsewhere = bool(senders) and not named_in(senders, service)  # they come here only by their `Route`
        if elsewhere and not route.open:
            continue
        text = (
            f"routes.{route.name}: none of its relays takes mail from SMTP_FROM, by their `from`: letters"
            f" that name no other sender wait there; name {service} in `from`, or give it another relay"
        )
        yield Finding(part="settings", level="warning" if elsewhere else "error", text=text)


def _renewed_twice(links: Mapping[str, SmtpConfig]) -> Iterator[Finding]:
    """Relays that keep their refresh tokens in one file, of which each takes and replaces the other's."""
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    for name, link in links.items():
        tokens = link.credentials.tokens
        if isinstance(tokens, TokenEndpoint) and tokens.refresh_file:
            sharing[tokens.refresh_file].append(name)
    for path, names in sharing.items():
        if len(names) > 1:
            text = (
                f"relays {', '.join(names)}: all have their refresh token in {path}, and an endpoint may take"
                " each one only once, and end all of them when it comes again; give each relay a token, and a"
                " file, of its own"
            )
            yield Finding(part="settings", level="error", text=text)


def _in_the_open(relay: RelayTable) -> Iterator[str]:
    secrets = {"password": relay.password}
    if relay.oauth is not None:
        secrets["oauth.client_secret"] = relay.oauth.client_secret
    for key, value in secrets.items():
        if value and "${" not in value:
            yield f".{key} stands in the file itself; name it by ${{NAME}}, or its file by {key}_file"


def _of_link(settings: Settings, link: SmtpConfig) -> Iterator[str]:
    if link.tls != "none" and not link.verify:
        yield ".tls_verify = false: anybody on the way can read the mail; set tls_ca_file instead"
    if link.tls == "none":
        yield ".tls = none: mail goes out in clear text; set starttls or implicit if the relay has them"
    if settings.dkim_keys and link.host.lower().endswith(AMAZON):
        yield f": {NO_SIGNATURES}"
    if link.helo_name and not is_whole(link.helo_name):
        yield (
            f".helo_name = {link.helo_name} is no whole name: many relays refuse mail for that; give it one"
            " with its domain, or leave it out"
        )


async def probe_relays(settings: Settings, recipient: str) -> list[Finding]:
    """A session with each relay, all at once; the findings come in the relays' order."""
    plans = {each.name: each for each in plan_of(settings).relays}
    links = links_of(settings)

    async def probe(name: str, plan: RelayPlan) -> list[Finding]:
        relay, timeout = ways[name], links[name].timeouts.connect
        sender = sender_of(plan)
        found = await probe_relay(relay, sender, recipient=recipient, timeout=timeout)
        if sender != plan.policy.reverse_path:
            also = f"; it takes no mail from SMTP_FROM, by its `from`: {sender} stands for whom it takes"
            found = [replace(each, text=each.text + also) for each in found]
        if not in_file(settings, name):
            return found
        part = f"relay {name} at {relay.address}"
        return [replace(each, part=part, text=file_words(each.text)) for each in found]

    ways = build_relays(settings, SystemClock())
    found = await asyncio.gather(*(probe(name, plan) for name, plan in plans.items()))
    return [finding for findings in found for finding in findings]


def sender_of(plan: RelayPlan) -> str:
    """The reverse-path that a relay is asked about: ours where it takes that, else one that it takes."""
    ours = plan.policy.reverse_path
    local, _, domain = ours.rpartition("@")
    if not plan.senders or any(_covers(each, ours, domain.lower()) for each in plan.senders):
        return ours
    first = plan.senders[0].removeprefix("*.")
    return first if "@" in first else f"{local}@{first}"


def _covers(pattern: str, address: str, domain: str) -> bool:
    if pattern.startswith("*."):
        return domain.endswith(pattern[1:])
    return pattern in {domain, address}
