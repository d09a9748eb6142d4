"""Rules about the headers: who it is from and to, what it is about, and how it is written."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from typing import Final

from mailsender.lint.domains import aligned
from mailsender.lint.rule import GOOGLE, MICROSOFT, SPAMASSASSIN, YAHOO, Rule, some
from mailsender.lint.view import View
from mailsender.message.compose import MAX_LINE

LONG_SUBJECT: Final = 150
"""Characters from which on a subject is long: mail programs on a desk show some 70, phones half of it."""

SHOWN: Final = 20
"""Addresses in To and Cc that may see one another: more people than know each other by name."""

AHEAD: Final = timedelta(hours=24)
"""How far a date may lie ahead: the clocks of machines with a wrong zone do not differ by more."""

_SINGLE: Final = (
    *("from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "in-reply-to"),
    *("references", "mime-version", "content-type", "content-transfer-encoding"),
    *("list-unsubscribe", "list-unsubscribe-post", "list-id"),
)
"""Headers that stand in a message once at most (RFC 5322 §3.6, RFC 2045 §3, RFC 2369 §3, RFC 2919 §4)."""

_MESSAGE_ID = re.compile(r"\s*<([^<>@\s]+)@([^<>@\s]+)>\s*")
_ADDRESS = re.compile(r"[^\s@<>()\",;:]+@((?:[\w-]+\.)+[\w-]{2,})")


def _refused(view: View) -> str:
    return view.refused and f"the service would refuse the letter: {view.refused}"


def _from(view: View) -> str:
    if view.authors is None:
        return ""
    if len(view.authors) > 1:
        return f"From names {len(view.authors)} authors"
    if not view.authors:
        return "it has no From that can be read"
    author = view.authors[0]
    good = author.address.count("@") == 1 and not author.address.startswith("@") and "." in author.domain
    return "" if good else "From holds no whole address"


def _twice(view: View) -> str:
    if view.raw is None:
        return ""
    counted = Counter(view.raw.names)
    names = [name for name in _SINGLE if counted[name] > 1]
    return f"more than once: {some(name.title() for name in names)}" if names else ""


def _aligned(view: View) -> str:
    """Of what is not known nothing is said: a relay may sign, or send under a reverse-path of its own."""
    if not view.authors or view.signers is None:
        return ""
    domain = view.authors[0].domain
    known = [*view.signers, *([view.return_domain] if view.return_domain else [])]
    if not known or any(aligned(domain, each) for each in known):
        return ""
    return f"From is of {domain}, and neither a signature nor the reverse-path is: {some(known)}"


def _unsigned(view: View) -> str:
    if view.signers is None or view.signers or not view.authors:
        return ""
    if view.raw is not None:
        return "it has no DKIM-Signature; if your relay adds one, all is well"
    return f"no key signs for {view.authors[0].domain}"


def _other_return(view: View) -> str:
    if not view.authors or not view.return_domain or aligned(view.authors[0].domain, view.return_domain):
        return ""
    return f"From is of {view.authors[0].domain}, the reverse-path of {view.return_domain}"


def _name(view: View) -> str:
    for author in view.authors or ():
        found = _ADDRESS.search(author.name[:1000])
        if found and not aligned(found[1], author.domain):
            return f"the name in From shows an address of {found[1]}, and it is sent from {author.domain}"
    return ""


def _to_self(view: View) -> str:
    people = {each.address.lower() for each in (*view.to, *view.cc)}
    authors = {each.address.lower() for each in view.authors or ()}
    return "To names its own sender and nobody else" if people and people == authors else ""


def _to_many(view: View) -> str:
    count = len(view.to) + len(view.cc)
    return f"To and Cc show {count} addresses to all of them" if count > SHOWN else ""


def _to_nobody(view: View) -> str:
    if not view.bulk or view.to or view.cc:
        return ""
    return "it is bulk, and To names nobody; with `Personal` each reader gets a message of its own"


def _no_subject(view: View) -> str:
    return "it has no subject" if view.subject is not None and not view.subject.strip() else ""


def _long_subject(view: View) -> str:
    length = len(view.subject or "")
    return f"its subject has {length} characters" if length > LONG_SUBJECT else ""


def _date(view: View) -> str:
    if view.raw is None or view.raw.date is not None:
        return ""
    return "its Date cannot be read" if view.raw.dates else "it has no Date"


def _date_ahead(view: View) -> str:
    if view.raw is None or view.raw.date is None or view.raw.date - view.now <= AHEAD:
        return ""
    return f"its Date, {view.raw.date:%Y-%m-%d %H:%M}, is still to come"


def _message_id(view: View) -> str:
    if view.raw is None:
        return ""
    if not view.raw.message_ids:
        return "it has no Message-ID"
    bad = [each for each in view.raw.message_ids if not _MESSAGE_ID.fullmatch(each)]
    return "its Message-ID is not of the form <left@right>" if bad else ""


def _local_message_id(view: View) -> str:
    found = _MESSAGE_ID.fullmatch(view.raw.message_ids[0]) if view.raw and view.raw.message_ids else None
    if not found or ("." in found[2] and not found[2].lower().endswith((".local", ".localdomain", ".lan"))):
        return ""
    return f"its Message-ID is of {some([found[2]])}, which is no domain in DNS"


def _long_line(view: View) -> str:
    longest = view.raw.longest_line if view.raw else 0
    return f"a line has {longest} octets; {MAX_LINE} are allowed" if longest > MAX_LINE else ""


def _bare_end(view: View) -> str:
    if view.raw is None or not view.raw.bare_ends:
        return ""
    return f"{view.raw.bare_ends} line ends are a CR alone, or a LF alone among others that are CRLF"


def _odd_octets(view: View) -> str:
    if view.raw is None:
        return ""
    found = ["NUL octets" if view.raw.nul else "", "raw 8-bit octets" if view.raw.eight_bit_header else ""]
    return f"its headers or body hold {some(filter(None, found))}" if any(found) else ""


def _faults(view: View) -> str:
    return f"it is not well formed: {some(view.raw.faults)}" if view.raw and view.raw.faults else ""


HEADER_RULES: Final = (
    Rule(
        id="refused",
        level="error",
        about="The service would refuse the letter.",
        reason="It would get an `error` report, and `POST /post` would refuse its whole batch.",
        source="docs/reference/topics.md",
        look=_refused,
    ),
    Rule(
        id="from",
        level="error",
        about="From is missing, names several authors, or holds no whole address.",
        reason="Gmail refuses such a message, and DMARC cannot be applied to it.",
        source=f"RFC 5322 §3.6.2; RFC 7489 §6.6.1; {GOOGLE}",
        look=_from,
    ),
    Rule(
        id="header-twice",
        level="error",
        about="A header that may stand once stands there again.",
        reason="Gmail refuses the message (550 5.7.1): filters and readers may each take another of the two.",
        source=f"RFC 5322 §3.6; {GOOGLE}",
        look=_twice,
    ),
    Rule(
        id="from-not-aligned",
        level="error",
        about="Neither a DKIM signature nor the reverse-path is of From's domain, or of its organization's.",
        reason="DMARC fails. Gmail, Yahoo and Outlook.com then refuse who sends 5,000 messages a day, and"
        " anybody with a policy of `reject`.",
        source=f"RFC 9989 §4.4; {GOOGLE}; {YAHOO}; {MICROSOFT}",
        look=_aligned,
    ),
    Rule(
        id="not-signed",
        level="warning",
        about="No DKIM signature is there, or no key for From's domain.",
        reason="Large senders have to sign, and what is forwarded has no other proof of who wrote it.",
        source=f"RFC 6376 §1; {GOOGLE}; {YAHOO}; {MICROSOFT}",
        look=_unsigned,
    ),
    Rule(
        id="reverse-path",
        level="note",
        about="The reverse-path is of another organization than From.",
        reason="SPF then says nothing about From: DMARC has to go by a DKIM signature alone.",
        source="RFC 9989 §4.4",
        look=_other_return,
    ),
    Rule(
        id="from-name",
        level="warning",
        about="The name in From shows an address of another domain.",
        reason="So do messages that pretend to be somebody's else; mail programs warn their readers.",
        source=GOOGLE,
        look=_name,
    ),
    Rule(
        id="to-self",
        level="warning",
        about="To is the sender's own address.",
        reason="A habit of spam with blind copies; filters count it.",
        source=f"{SPAMASSASSIN}, TO_EQ_FM_*",
        look=_to_self,
    ),
    Rule(
        id="to-many",
        level="warning",
        about=f"More than {SHOWN} addresses stand in To and Cc.",
        reason="Each reader learns the addresses of all others, and an answer to all goes to all.",
        source="RFC 5322 §5; Regulation (EU) 2016/679, art. 5 (1) (f)",
        look=_to_many,
    ),
    Rule(
        id="to-nobody",
        level="note",
        about="A bulk message does not name its reader in To.",
        reason="Undisclosed recipients look like spam to filters, and nobody sees to which address it came.",
        source=f"{SPAMASSASSIN}, UNDISC_*",
        look=_to_nobody,
    ),
    Rule(
        id="subject-empty",
        level="warning",
        about="The subject is empty.",
        reason="Filters count it, and people take it for spam.",
        source=f"{SPAMASSASSIN}, MISSING_SUBJECT",
        look=_no_subject,
    ),
    Rule(
        id="subject-long",
        level="note",
        about=f"The subject has more than {LONG_SUBJECT} characters.",
        reason="Nobody sees the rest of it: mail programs show 30 to 70.",
        source="RFC 5322 §2.1.1 (lines of 78 characters)",
        look=_long_subject,
    ),
    Rule(
        id="date",
        level="error",
        about="Date is missing, or cannot be read.",
        reason="It is one of the two headers that each message has to have; filters and readers sort by it.",
        source="RFC 5322 §3.6.1",
        look=_date,
    ),
    Rule(
        id="date-ahead",
        level="warning",
        about="Date lies more than a day ahead.",
        reason="A message that stands above all others for days is a trick of spam; filters count it.",
        source=f"RFC 5322 §3.6.1; {SPAMASSASSIN}, DATE_IN_FUTURE_*",
        look=_date_ahead,
    ),
    Rule(
        id="message-id",
        level="error",
        about="Message-ID is missing, or is none.",
        reason="Gmail refuses it (550 5.7.1), and what answers it cannot be put beside it.",
        source=f"RFC 5322 §3.6.4; {GOOGLE}",
        look=_message_id,
    ),
    Rule(
        id="message-id-local",
        level="warning",
        about="The Message-ID is of a name that DNS does not have, as localhost.",
        reason="It may be another's, too, and a mailbox may drop the second as a copy; filters count it.",
        source="RFC 5322 §3.6.4",
        look=_local_message_id,
    ),
    Rule(
        id="line-long",
        level="error",
        about=f"A line has more than {MAX_LINE} octets.",
        reason="Relays refuse it or break it in two, and a broken line breaks the signature.",
        source="RFC 5322 §2.1.1; RFC 5321 §4.5.3.1.6",
        look=_long_line,
    ),
    Rule(
        id="line-end",
        level="error",
        about="Line ends are mixed, or a CR stands alone.",
        reason="Some servers see the end of the message there, and another one behind it; others refuse it.",
        source="RFC 5322 §2.3; RFC 5321 §2.3.8",
        look=_bare_end,
    ),
    Rule(
        id="octets",
        level="warning",
        about="There are NUL octets, or headers with octets beyond ASCII.",
        reason="Without SMTPUTF8 headers are ASCII; relays change such octets, or refuse the message.",
        source="RFC 5322 §2.2, §4; RFC 6532 §3.1",
        look=_odd_octets,
    ),
    Rule(
        id="mime",
        level="warning",
        about="The message is not well formed.",
        reason="Each reader mends it in a way of its own, and filters distrust what can be read in two ways.",
        source=f"RFC 2045 §5, RFC 2046 §5.1; {GOOGLE}",
        look=_faults,
    ),
)
"""The rules, in the order of the page."""
