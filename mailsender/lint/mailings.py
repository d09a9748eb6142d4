"""Rules about mailings: whoever gets one has to be able to leave."""

from __future__ import annotations

import re
from typing import Final

from mailsender.lint.rule import GOOGLE, MICROSOFT, YAHOO, Rule, some
from mailsender.lint.view import View

_UNSUBSCRIBE = re.compile(
    r"unsubscrib|opt[ -]?out|manage (?:your )?(?:preferences|subscription)|email preferences"
    r"|отпис|відпис|abmelde|abbestell|austragen|désabonn|désinscri|darse de baja|cancelar (?:la )?suscripci"
    r"|disiscri|cancella(?:re|ti)? (?:la )?iscrizione|afmelden|uitschrijven|wypis|zrezygn|avregistrera|odhlás"
    r"|descadastr|cancelar (?:a )?inscri|退订|取消订阅|配信停止|수신거부",
    re.IGNORECASE,
)


def _no_unsubscribe(view: View) -> str:
    if not view.bulk or view.unsubscribe:
        return ""
    return f"it is bulk, as {view.bulk}, and has no List-Unsubscribe"


def _no_click(view: View) -> str:
    if not view.bulk or not view.unsubscribe:
        return ""
    if "<https://" not in view.unsubscribe.lower():
        return "List-Unsubscribe has no https URL"
    if view.one_click.replace(" ", "").lower() != "list-unsubscribe=one-click":
        return "List-Unsubscribe-Post: List-Unsubscribe=One-Click is missing"
    return ""


def _unsigned_unsubscribe(view: View) -> str:
    if view.signed is None or not view.one_click:
        return ""
    missing = {"list-unsubscribe", "list-unsubscribe-post"} - view.signed
    return f"no signature covers {some(sorted(missing))}" if missing else ""


def _hidden_unsubscribe(view: View) -> str:
    if not view.bulk or not view.body_known or (view.html is None and view.text is None):
        return ""
    urls = set(re.findall(r"<(https?://[^>\s]+)>", view.unsubscribe[:10_000]))
    links = [f"{link.href} {link.text}" for link in view.page.links]
    if any(_UNSUBSCRIBE.search(each) for each in links) or _UNSUBSCRIBE.search(view.text or ""):
        return ""
    named = {link.href for link in view.page.links}
    return "" if urls & named else "no link in its body is for unsubscribing"


MAILING_RULES: Final = (
    Rule(
        id="unsubscribe",
        level="error",
        about="A bulk message has no List-Unsubscribe.",
        reason="Who sends 5,000 messages a day has to let readers leave in their mail program; who cannot"
        " leave reports spam.",
        source=f"RFC 2369 §3.2; RFC 8058; {GOOGLE}; {YAHOO}",
        look=_no_unsubscribe,
    ),
    Rule(
        id="unsubscribe-click",
        level="error",
        about="A bulk message has no https URL in List-Unsubscribe, or no List-Unsubscribe-Post.",
        reason="Gmail and Yahoo ask for it by name; a mailto alone is not enough.",
        source=f"RFC 8058 §3.1; {GOOGLE}; {YAHOO}",
        look=_no_click,
    ),
    Rule(
        id="unsubscribe-signed",
        level="error",
        about="A signature does not cover both unsubscribe headers.",
        reason="Mail programs then do not offer the click: anybody could have put it there.",
        source="RFC 8058 §4",
        look=_unsigned_unsubscribe,
    ),
    Rule(
        id="unsubscribe-link",
        level="warning",
        about="The body of a bulk message has no link for unsubscribing.",
        reason="Not every mail program has the button, and laws want it in the message.",
        source=f"{GOOGLE}; {YAHOO}; {MICROSOFT}; CAN-SPAM Act (16 CFR part 316)",
        look=_hidden_unsubscribe,
    ),
)
"""The rules, in the order of the page."""
