"""What relays of the worlds say, for how long that holds, and rules by which the service knows it."""

from __future__ import annotations

from dataclasses import replace

from mailsender.model.letter import Phase
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Then
from simulation.manners import Says

HOUR = 3600.0

HELD = 0.6
"""Seconds. A replica that was told so holds its letters for a second, counted from the first such reply, and
then tries with one at a time, ever more rarely."""

STOP = Says(
    code=535,
    enhanced="5.7.8",
    text="the login is not valid any more",
    phase=Phase.MAIL,
    holds=HELD,
    fresh=True,
)
THROTTLED = Says(
    code=454,
    enhanced="4.3.0",
    text="Throttling failure: Maximum sending rate exceeded",
    phase=Phase.DOT,
    holds=HELD,
)
SPENT = Says(
    code=550,
    enhanced="5.4.5",
    text="Daily user sending limit exceeded",
    phase=Phase.MAIL,
    holds=HELD,
    fresh=True,
)
BUSY = Says(code=451, enhanced="4.3.2", text="try again later", phase=Phase.MAIL)
"""It forbids nothing: in a session that carried letters it may be about that, and another one is asked."""

REST = ReplyRule(
    name="rest",
    at=(Phase.MAIL, Phase.DOT),
    codes=("450",),
    text="come back in five minutes",
    action=Action.WAIT,
    scope=Scope.RELAY,
    seconds=300.0,
)
ORDERS = tuple(
    Says(code=450, enhanced="4.7.0", text="come back in five minutes", phase=each, holds=300.0)
    for each in REST.at
)
"""What a relay says whose rules are known: all replicas obey it, and those that start meanwhile."""

LIMITED = replace(THROTTLED, holds=5.0)
USED_UP = replace(SPENT, holds=HOUR, fresh=False)
"""The same from a relay whose preset is known."""

NO_MORE = replace(LIMITED, text="Daily message quota exceeded", holds=600.0)

CROWDED = Says(
    code=451,
    enhanced="4.7.500",
    text="Server busy. Please try again later",
    phase=Phase.RCPT,
    holds=300.0,
    scope=Scope.DESTINATION,
)
QUICK = Says(
    code=450,
    enhanced="4.2.1",
    text="The user you are trying to contact is receiving mail too quickly",
    phase=Phase.RCPT,
    holds=600.0,
    scope=Scope.RECIPIENT,
)
THERE, ELSEWHERE = "busy.test", "other.test"

SLOWER = ReplyRule(
    name="server-busy",
    codes=("451",),
    enhanced=("4.7.500",),
    action=Action.SLOW,
    scope=Scope.DESTINATION,
    seconds=CROWDED.holds,
    then=Then(rate=0.5, seconds=1800.0),
)
LATER = ReplyRule(
    name="too-quickly",
    codes=("450",),
    enhanced=("4.2.1",),
    action=Action.WAIT,
    scope=Scope.RECIPIENT,
    seconds=QUICK.holds,
)

MOODS = (STOP, THROTTLED, SPENT, BUSY)
"""What a relay says to everybody for a while."""
