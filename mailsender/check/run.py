"""`mailsender check`: tries what the settings name, all at once. The composition root of that one command."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pydantic import SecretStr

from mailsender.app import build_folder, kafka_config
from mailsender.check.domains import check_domains
from mailsender.check.findings import Finding, worst
from mailsender.check.kafka import KafkaWish, probe_kafka
from mailsender.check.probe import probe_mongo
from mailsender.check.relays import AMAZON, NO_SIGNATURES, judge_file, probe_relays
from mailsender.check.resolver import Dns
from mailsender.message.dkim import SigningKeys
from mailsender.model.address import parse_address
from mailsender.model.errors import Rejected
from mailsender.observe import log
from mailsender.settings.environment import Settings, slips
from mailsender.settings.secrets import secret_values
from mailsender.settings.signing import signing_keys
from mailsender.smtp.hosts import is_whole

__all__ = ["run_checks", "worst"]


async def run_checks(
    settings: Settings, recipient: str = "", dns: tuple[str, int] | None = None
) -> list[Finding]:
    """Try Kafka, MongoDB, the relays and DNS as `settings` name them; the findings come in that order.

    The relays are asked about `recipient`, too, where one is named; no letter is sent. `dns` is the DNS
    server that is asked, where that is not the machine's own.
    """
    secrets = secret_values(settings)
    # What libraries have to say is in the findings already.
    log.configure("error", "console", secrets=secrets)
    kafka, mongo, relays, domains = await asyncio.gather(
        _kafka(settings), _mongo(settings), probe_relays(settings, recipient), _domains(settings, dns)
    )
    # The words of a stranger are in them: a relay may repeat what it was told.
    redactor = log.Redactor(secrets)
    found = [*_judge(settings), *kafka, *mongo, *relays, *domains]
    return [replace(finding, text=redactor.text(finding.text)) for finding in found]


def _judge(settings: Settings) -> list[Finding]:
    """What can be said about the settings without asking anybody."""
    found = [Finding(part="settings", level="ok", text="complete")]
    for slip in slips(settings.config):
        meant = f"; {slip.nearest} may be meant" if slip.nearest else ""
        text = f"{slip.name} (in {slip.place}) is no setting and is ignored{meant}"
        found.append(Finding(part="settings", level="warning", text=text))
    found += judge_file(settings)
    found += _relay_of_settings(settings) if settings.smtp_host else []
    found += _folder(settings)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else ""
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = (
                f"{name.upper()}: the quotes around it are a part of it; leave them out if they should not be"
            )
            found.append(Finding(part="settings", level="warning", text=text))
    return found


def _relay_of_settings(settings: Settings) -> list[Finding]:
    """What can be said of the relay that `SMTP_*` are."""
    found = []
    if settings.smtp_tls != "none" and not settings.smtp_tls_verify:
        text = "SMTP_TLS_VERIFY=false: anybody on the way can read the mail; set SMTP_TLS_CA_FILE instead"
        found.append(Finding(part="settings", level="warning", text=text))
    if settings.smtp_tls == "none":
        text = "SMTP_TLS=none: mail goes out in clear text; set starttls or implicit if the relay has them"
        found.append(Finding(part="settings", level="warning", text=text))
    if settings.dkim_keys and settings.smtp_host.lower().endswith(AMAZON):
        found.append(Finding(part="settings", level="warning", text=NO_SIGNATURES))
    if settings.smtp_helo_name and not is_whole(settings.smtp_helo_name):
        text = (
            f"SMTP_HELO_NAME={settings.smtp_helo_name} is no whole name: many relays refuse mail for that;"
            " set a name with its domain, or leave it out"
        )
        found.append(Finding(part="settings", level="warning", text=text))
    return found


def _folder(settings: Settings) -> list[Finding]:
    """What is wrong with the templates of TEMPLATES_DIR, which would stop the start."""
    try:
        build_folder(settings)
    except Rejected as error:
        return [Finding(part="settings", level="error", text=str(error))]
    return []


async def _kafka(settings: Settings) -> list[Finding]:
    wish = KafkaWish(
        letters=settings.kafka_topic_mailsender,
        reports=settings.kafka_topic_profile,
        dead_letters=settings.kafka_topic_dead_letter,
        record_bytes=settings.kafka_max_request_size,
    )
    return await probe_kafka(kafka_config(settings), wish)


async def _mongo(settings: Settings) -> list[Finding]:
    if settings.in_memory:
        text = "the queue is kept in memory: letters are lost when the process ends; set MONGODB_URI"
        return [Finding(part="queue", level="warning", text=text)]
    return await probe_mongo(
        settings.mongo_uri,
        settings.mongodb_base_name,
        settings.mongodb_collection,
        timeout=settings.mongodb_timeout,
    )


async def _domains(settings: Settings, dns: tuple[str, int] | None) -> list[Finding]:
    """What DNS says of the domains in whose name letters may be sent, and of the keys that sign."""
    keys: SigningKeys | None = None
    found: list[Finding] = []
    try:
        keys = signing_keys(settings)
    except Rejected as error:
        found.append(Finding(part="settings", level="error", text=str(error)))
    senders = settings.senders
    domains = senders.domains | {each.rpartition("@")[2] for each in senders.addresses}
    reverse_path = parse_address(settings.sender[1]).domain
    return found + await check_domains(Dns(dns).txt, domains, reverse_path=reverse_path, keys=keys)
