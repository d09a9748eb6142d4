"""Rules about links: where they lead, and what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mailsender.lint.domains import aligned, host_of, is_numeric, split_url
from mailsender.lint.page import MAX_HTML, Link
from mailsender.lint.rule import GOOGLE, SPAMASSASSIN, YAHOO_MAIL, Rule, some
from mailsender.lint.view import View

_SHOWN_URL = re.compile(r"(?:https?://|www\.)[^\s]+", re.IGNORECASE)
_SHOWN_DOMAIN = re.compile(
    r"(?:[a-z0-9-]{1,63}\.){1,5}(?:com|org|net|edu|gov|info|biz|io|eu|de|fr|uk|ru|us|ca|au|es|it|nl|pl|jp|cn|br|in)",
    re.IGNORECASE,
)


def _hosts(view: View) -> Iterator[str]:
    for link in view.page.links:
        yield host_of(link.href)
    for found in re.findall(r"https?://[^\s<>\"]{1,2000}", (view.text or "")[:MAX_HTML]):
        yield host_of(found)


def _to_addresses(view: View) -> str:
    found = [host for host in _hosts(view) if host and is_numeric(host)]
    return f"links lead to {some(found)}" if found else ""


def _plain_http(view: View) -> str:
    found = [host_of(link.href) for link in view.page.links if link.href.lstrip()[:7].lower() == "http://"]
    return f"{len(found)} links are http and not https: {some(found)}" if found else ""


def _other_domain(view: View) -> str:
    found = [pair for link in view.page.links if (pair := _shown_and_meant(link))]
    return f"a link shows one domain and leads to another: {some(found)}" if found else ""


def _shown_and_meant(link: Link) -> str:
    meant = host_of(link.href)
    text = link.text.rstrip(".,;:!? ")
    if not meant or not text or " " in text:
        return ""
    if _SHOWN_URL.fullmatch(text):
        shown = host_of(text if "://" in text else f"https://{text}")
    else:
        shown = text.lower() if _SHOWN_DOMAIN.fullmatch(text) else ""
    return f"{shown} → {meant}" if shown and not aligned(shown, meant) else ""


def _odd_ports(view: View) -> str:
    parts = [split_url(link.href) for link in view.page.links]
    found = [
        f"{each.hostname}:{each.port}"
        for each in parts
        if each and each.scheme in {"http", "https"} and each.port not in {None, 80, 443}
    ]
    return f"links name a port: {some(found)}" if found else ""


LINK_RULES: Final = (
    Rule(
        id="link-ip",
        level="error",
        about="A link leads to an IP address.",
        reason="Yahoo warns its readers, and filters count it: so does phishing.",
        source=f"{YAHOO_MAIL}; {SPAMASSASSIN}, NUMERIC_HTTP_ADDR",
        look=_to_addresses,
    ),
    Rule(
        id="link-port",
        level="warning",
        about="A link names a port.",
        reason="Yahoo warns its readers, and firewalls of companies stop it.",
        source=f"{YAHOO_MAIL}; {SPAMASSASSIN}, WEIRD_PORT",
        look=_odd_ports,
    ),
    Rule(
        id="link-http",
        level="warning",
        about="A link is http.",
        reason="Anybody on the way sees who clicked, and may change what comes; programs warn of it.",
        source="RFC 7258; RFC 9110 §4.2.2",
        look=_plain_http,
    ),
    Rule(
        id="link-text",
        level="warning",
        about="A link shows one domain and leads to another.",
        reason="So does phishing; programs warn of it. Count clicks under your own domain.",
        source=GOOGLE,
        look=_other_domain,
    ),
)
"""The rules, in the order of the page."""
