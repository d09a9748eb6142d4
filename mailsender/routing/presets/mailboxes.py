"""Mailbox providers: Yahoo, whose replies reach us where a relay hands them through, Yandex 360, Mail.ru."""

from __future__ import annotations

from mailsender.model.letter import Phase
from mailsender.routing.presets.preset import AUTH, DAY, HOUR, MINUTE, Limits, Preset, Rules
from mailsender.routing.reply_rule import Action, Scope, Then

_yahoo, _yandex, _mailru = Rules("yahoo"), Rules("yandex360"), Rules("mailru")

YAHOO = Preset(
    name="yahoo",
    title="Yahoo, AOL, Verizon",
    rules=(
        _yahoo(
            "deferred",
            421,
            pattern=r"\[TSS?0[0-9]\].{0,60}temporarily deferred|\[TSS04\]",
            action=Action.WAIT,
            scope=Scope.DESTINATION,
            seconds=2 * HOUR,
            then=Then(rate=0.5, seconds=2 * HOUR),
            source="KumoMTA shaping.toml: 2 hours; Yahoo (SLN26151): resend after 4 hours",
        ),
        _yahoo(
            "deferred-for-good",
            421,
            pattern=r"\[TSS?0[0-9]\].{0,60}permanently deferred",
            action=Action.STOP,
            scope=Scope.DESTINATION,
            seconds=4 * HOUR,
            source="Yahoo (SLN3436): not to be sent again before something has changed; the time is ours",
        ),
        _yahoo(
            "blocked",
            553,
            pattern=r"\[BL2[0-9]\]",
            action=Action.STOP,
            scope=Scope.DESTINATION,
            seconds=4 * HOUR,
            source="smtp-field-manual #64: the address is in Spamhaus's list; the time is ours",
            verified=False,
        ),
        _yahoo(
            "recipient-too-quickly",
            450,
            text="receiving mail too quickly",
            action=Action.WAIT,
            scope=Scope.RECIPIENT,
            seconds=10 * MINUTE,
            source="smtp.codes/yahoo; the time is ours",
            verified=False,
        ),
    ),
    open_questions="limits: Yahoo publishes none",
)

YANDEX360 = Preset(
    name="yandex360",
    title="Yandex 360",
    rules=(
        _yandex(
            "limit",
            at=(Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.DOT),
            text="Spam limit exceeded",
            action=Action.SWITCH,
            scope=Scope.RELAY,
            seconds=DAY,
            source="Yandex: I can't send emails; whoever tries meanwhile is blocked for another 24 hours",
            verified=False,
        ),
        _yandex("login", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6"),
    ),
    limits=Limits(
        max_recipients=35,
        source="Yandex Mail: 35 recipients a letter over SMTP, 500 in any 24 hours; 360 has more",
        verified=True,
    ),
    open_questions="the replies of Yandex 360 and its quota (3,000 to 5,000 in 24 hours, as others report);"
    " what is rejected under suspicion of spam is weighed as any 554",
)

MAILRU = Preset(
    name="mailru",
    title="Mail.ru",
    rules=(
        _mailru(
            "account-disabled",
            550,
            text="sending for this account is disabled",
            action=Action.STOP,
            scope=Scope.RELAY,
            source="mailout.ru, 2015",
            verified=False,
        ),
        _mailru("login", 530, 534, 535, at=AUTH, action=Action.STOP, scope=Scope.RELAY, source="RFC 4954 §6"),
    ),
    open_questions="limits and replies: none of them could be verified",
)
