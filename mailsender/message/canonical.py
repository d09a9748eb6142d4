"""One way to write the further keys of a letter, so that letters which mean the same are told by their text.

What means the same makes the same message on the same terms: a header that another letter does not have, as
``Auto-Submitted: no``, is a difference, and so is the case in which a name of a header is written. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mailsender.message.headers import Mailbox, Unsubscribe
from mailsender.message.mail import Mail
from mailsender.message.parts import Attachment, Calendar, media_type
from mailsender.model.terms import NOTIFY, Terms


def canonical(keys: Mapping[str, Any], mail: Mail) -> dict[str, Any]:
    """The keys, written so that `mailsender.message.mail.read` makes `mail` of them again.

    What `mail` is not asked for stays as it is: texts, variables by their names, numbers as they are (1 and
    1.0 are two texts in a template).
    """
    found = {**keys, **{key: write(mail) for key, write in _WRITTEN.items() if key in keys}}
    author = mail.author
    if author is not None and mail.author_name is not None:  # it names the same sender in one key
        author = replace(author, name=mail.author_name)
        found = {**found, "From": _mailbox(author), "FromName": None}
    if mail.sender is not None and mail.sender == author:  # such a Sender is not written
        found["Sender"] = None
    if not mail.personal:
        found["Names"] = None  # nobody is shown
    return {key: value for key, value in found.items() if value is not None and value is not False}


def _mailbox(box: Mailbox | None) -> str | None:
    if box is None or not box.name:
        return None if box is None else box.address.text
    name = box.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}" <{box.address.text}>'


def _mailboxes(several: Sequence[Mailbox]) -> list[str | None]:
    return [_mailbox(each) for each in several]


def _attachment(attachment: Attachment) -> dict[str, Any]:
    kind, parameters = media_type(attachment.content_type)
    written = {
        "Name": attachment.name,
        "ContentType": attachment.content_type if parameters else kind,
        "Inline": attachment.inline,
        "ContentID": attachment.content_id,
        "Ref": attachment.ref,
    }
    return {key: value for key, value in written.items() if value}


def _calendar(calendar: Calendar | None) -> dict[str, str] | None:
    return None if calendar is None else {"Text": calendar.text, "Method": calendar.method}


def _headers(mail: Mail) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in mail.further:
        found.setdefault(each.name, []).append(each.value.strip(" "))
    return found


def _unsubscribe(way: Unsubscribe | None) -> dict[str, str] | None:
    if way is None:
        return None
    written = {"URL": way.url, "Mail": way.mail.text if way.mail is not None else ""}
    return {key: value for key, value in written.items() if value}


def _terms(terms: Terms | None) -> dict[str, Any] | None:
    if terms is None:
        return None
    notify = [each for each in NOTIFY if each in terms.notify]
    written = {"Notify": notify, "Ret": terms.ret, "EnvID": terms.envid}
    return {key: value for key, value in written.items() if value}


_WRITTEN: Final[dict[str, Callable[[Mail], Any]]] = {
    "From": lambda mail: _mailbox(mail.author),
    "Sender": lambda mail: _mailbox(mail.sender),
    "ReplyTo": lambda mail: _mailboxes(mail.reply_to),
    "To": lambda mail: _mailboxes(mail.to),
    "Cc": lambda mail: _mailboxes(mail.cc),
    "Personal": lambda mail: mail.personal,
    "Attachments": lambda mail: [_attachment(each) for each in mail.attachments],
    "Calendar": lambda mail: _calendar(mail.calendar),
    "Headers": _headers,
    "ListUnsubscribe": lambda mail: _unsubscribe(mail.unsubscribe),
    "UnsubscribeOf": lambda mail: {who: _unsubscribe(way) for who, way in mail.unsubscribe_of.items()},
    "InReplyTo": lambda mail: list(mail.in_reply_to),
    "References": lambda mail: list(mail.references),
    "AutoSubmitted": lambda mail: mail.auto_submitted,
    "Importance": lambda mail: mail.importance,
    "Lang": lambda mail: mail.lang,
    "DSN": lambda mail: _terms(mail.notifications),
    "RequireTLS": lambda mail: mail.require_tls,
    "Suppression": lambda mail: mail.suppression,
}
