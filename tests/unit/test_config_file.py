"""The file of relays and routes: what it takes, what it refuses and how it says so, what is made of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase
from mailsender.routing.plan import DEFAULT, Match, Plan, Priority
from mailsender.routing.presets import PRESETS
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Then
from mailsender.settings.environment import Settings, load, slips
from mailsender.settings.file.notations import Quota, Rate, parse_percent, parse_quota, parse_rate
from mailsender.settings.file.read import read_config
from mailsender.settings.links import links_of
from mailsender.settings.relays import plan_of
from mailsender.settings.secrets import secret_values
from mailsender.settings.sources import SettingsError
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile
from mailsender.suppression.rules import SuppressionPolicy

QUOTED = '\'a.b\' . "c.\\"".'
"""Two parts of a key."""

ISSUE = """\
[relays.ses]
host = "email-smtp.eu-west-1.amazonaws.com"
port = 587
user = "AKIA..."
password_file = "SECRETS/ses"
preset = "ses"                      # reply rules and limits that go with it
rate = ["14/s", "2000/5m"]          # all of them hold
quota = "50000/24h"                 # any 24 hours; "500/day Europe/Moscow" for a calendar day
connections = 10                    # per replica; connections_total = 3 over all replicas
max_recipients = 50
from = ["example.com", "news@example.org"]   # senders that this relay takes
[relays.ses.destinations."gmail.com"]
rate = "20/s"

[[relays.ses.rules]]                # before the preset's
stage = "dot"                       # connect, greeting, ehlo, auth, mail, rcpt, data, dot
code = 454
text = "Maximum sending rate exceeded"
action = "slow"                     # wait, slow, switch, split, stop, fail, retry
scope = "relay"                     # recipient, destination, sender, relay
for = "1m"
then = { rate = "50%", for = "10m" }

[routes.newsletter]
match = { stream = "newsletter" }   # also sender, destination (domains, wildcards), priority, tag, size
relays = [{ name = "ses", weight = 3 }, { name = "sendgrid", weight = 1 }]
fallback = ["postfix"]
retry = "1m, 5m*2, 30m, 1h*3, 4h"   # the last one repeats; jitter of a tenth
expire = "2d"
window = "Mon-Fri 08:00-20:00 Europe/Moscow"
share = 1
[routes.default]
relays = ["ses", "postfix"]
"""

OTHERS = """
[relays.sendgrid]
host = "smtp.sendgrid.net"
port = 465
user = "apikey"
password = "${SENDGRID_KEY}"
[relays.postfix]
host = "localhost"
port = 25
tls = "none"
"""

SMALL = '[relays.a]\nhost = "h"\n[routes.default]\nrelays = ["a"]\n'

NEEDED = {"SMTP_FROM": "robot@example.com", "KAFKA_BROKERS": "k:1", "MONGODB_URI": "memory:"}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Read settings whose file has this text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENDGRID_KEY", "SG.secret")
    (tmp_path / "ses").write_text("s3cret\n")

    def read(text: str, **variables: str) -> Settings:
        (tmp_path / "relays.toml").write_text(text.replace("SECRETS", str(tmp_path)))
        given = {**NEEDED, "MAILSENDER_CONFIG": str(tmp_path / "relays.toml"), **variables}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        return load()

    return read


def complaint(loaded: Any, text: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(text, **variables)
    said = str(caught.value)
    assert said.startswith("MAILSENDER_CONFIG: ")
    assert "\n" not in said
    return re.sub(r"/[^ ]*/relays\.toml", "relays.toml", said.removeprefix("MAILSENDER_CONFIG: "))


# --- the example of the issue --------------------------------------------------------------------


def test_the_example_is_what_it_says(loaded: Any) -> None:
    plan = plan_of(loaded(ISSUE + OTHERS))
    assert [relay.name for relay in plan.relays] == ["ses", "sendgrid", "postfix"]
    assert [route.name for route in plan.routes] == [DEFAULT, "newsletter"]
    ses = plan.relays[0]
    assert (ses.allowance.letters, ses.allowance.period) == (14, 1.0)
    assert (ses.allowance.quota, ses.allowance.quota_period) == (50_000, 86_400.0)
    assert [(each.letters, each.period, each.quota) for each in ses.further] == [(2000, 300.0, 0)]
    assert (ses.policy.sessions.sessions, ses.policy.max_recipients) == (10, 50)
    assert ses.policy.reverse_path == "robot@example.com"
    assert ses.senders == ("example.com", "news@example.org")
    assert [each.domain for each in ses.destinations] == ["gmail.com"]
    assert ses.destinations[0].rates[0].letters == 20
    assert ses.preset == "ses"
    assert ses.rules == (
        ReplyRule(
            name="ses/1",
            at=(Phase.DOT,),
            codes=("454",),
            text="Maximum sending rate exceeded",
            action=Action.SLOW,
            scope=Scope.RELAY,
            seconds=60.0,
            then=Then(rate=0.5, seconds=600.0),
            source="the file",
            verified=True,
        ),
    )
    newsletter = plan.routes[1]
    assert newsletter.match == Match(streams=("newsletter",))
    assert (newsletter.relays, newsletter.weights) == (("ses", "sendgrid"), (3, 1))
    assert newsletter.fallback == ("postfix",)
    assert newsletter.expire == 2 * 86_400
    assert newsletter.retry.schedule == (60.0, *(300.0,) * 2, 1800.0, *(3600.0,) * 3, 14_400.0)
    assert newsletter.retry.retry_for == math.inf
    assert plan.routes[0].retry.retry_for == 2 * 86_400
    assert newsletter.window == "Mon-Fri 08:00-20:00 Europe/Moscow"
    assert plan.routes[0].relays == ("ses", "postfix")
    assert plan.routes[0].weights == ()


def test_its_relays_are_reached_as_it_says(loaded: Any) -> None:
    settings = loaded(ISSUE + OTHERS)
    links = links_of(settings)
    assert (links["ses"].host, links["ses"].port, links["ses"].tls) == (
        "email-smtp.eu-west-1.amazonaws.com",
        587,
        "starttls",
    )
    assert links["ses"].credentials == Credentials(user="AKIA...", password="s3cret")
    assert (links["sendgrid"].tls, links["sendgrid"].credentials.password) == ("implicit", "SG.secret")
    assert not links["postfix"].credentials.complete
    assert {"s3cret", "SG.secret", "\0apikey\0SG.secret"} <= set(secret_values(settings))


def test_a_relay_that_is_named_and_not_there_is_told_with_its_line(loaded: Any) -> None:
    said = complaint(loaded, ISSUE)
    assert "relays.toml:26: routes.newsletter.relays[1]: there is no relay sendgrid; known are ses" in said
    assert "relays.toml:33: routes.default.relays[1]: there is no relay postfix" in said


# --- with SMTP_* and without ---------------------------------------------------------------------


def test_without_a_file_there_is_the_relay_of_the_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**NEEDED, "SMTP_HOST": "h"}.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.config is None
    plan = plan_of(settings)
    assert [relay.name for relay in plan.relays] == [route.name for route in plan.routes] == [DEFAULT]
    assert list(links_of(settings)) == [DEFAULT]


def test_both_may_be_there(loaded: Any) -> None:
    text = '[relays.b]\nhost = "h"\n[routes.news]\nmatch = { stream = "n" }\nrelays = ["b", "default"]\n'
    plan = plan_of(loaded(text, SMTP_HOST="smtp.example.com", SMTP_MAX_SENDERS="7"))
    assert [relay.name for relay in plan.relays] == [DEFAULT, "b"]
    assert [route.name for route in plan.routes] == [DEFAULT, "news"]
    assert plan.routes[0].relays == (DEFAULT,)
    assert plan.relays[0].policy.sessions.sessions == 7


def test_the_route_default_of_the_file_goes_before_that_of_the_settings(loaded: Any) -> None:
    plan = plan_of(loaded(SMALL, SMTP_HOST="smtp.example.com"))
    assert [route.relays for route in plan.routes] == [("a",)]


def test_a_relay_cannot_be_in_both(loaded: Any) -> None:
    text = '[relays.default]\nhost = "h"\n'
    assert "relays.toml:1: relays.default: SMTP_HOST is the relay" in complaint(loaded, text, SMTP_HOST="h")
    assert len(plan_of(loaded(text + '[routes.default]\nrelays = ["default"]\n', SMTP_HOST="")).relays) == 1


def test_somebody_has_to_take_the_letters(loaded: Any) -> None:
    assert "routes.default: is missing" in complaint(loaded, '[relays.a]\nhost = "h"\n')


def test_without_a_file_the_host_is_missing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="SMTP_HOST: is missing"):
        load()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"KAFKA_BROKERS": "", "MONGODB_URI": ""}, ["KAFKA_BROKERS: is missing", "MONGODB_URI: is missing"]),
        ({"MONGODB_URI": ""}, ["MONGODB_URI: is missing"]),
        ({"SMTP_PORT": "x"}, ["SMTP_PORT: "]),
        ({"KAFKA_BROKERS": "'k:1'"}, ["KAFKA_BROKERS: the quotes around it"]),
    ],
)
def test_what_is_wrong_with_settings_and_the_file_is_told_together(
    loaded: Any, given: dict[str, str], named: list[str]
) -> None:
    """Who mends one of them does not find the other by the next start."""
    text = SMALL + "[relays.b]\nport = 25\n"
    with pytest.raises(SettingsError) as caught:
        loaded(text, **given)
    said = str(caught.value)
    assert all(each in said for each in named)
    assert said.count("MAILSENDER_CONFIG: ") == 1
    assert said.endswith("relays.toml:5: relays.b.host: is missing")
    with pytest.raises(SettingsError) as caught:
        loaded(SMALL, **given)
    assert all(each in str(caught.value) for each in named)
    assert "relays.toml" not in str(caught.value)


def test_a_bad_name_of_the_file_is_told_once(loaded: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(SMALL, MAILSENDER_CONFIG="'x.toml'", KAFKA_BROKERS="")
    assert str(caught.value).count("MAILSENDER_CONFIG: ") == 1


# --- what is refused -----------------------------------------------------------------------------

RULE = '[[relays.a.rules]]\ncode = 450\naction = "wait"\nscope = "relay"\n'
ROUTE = '[routes.r]\nrelays = ["a"]\nopen = true\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[relays.a]\nhost = "h"\nprot = 25\n', "relays.toml:3: relays.a.prot: is no key here; port may be"),
        ('[relay.a]\nhost = "h"\n', "relays.toml:1: relay: is no key here; relays may be meant"),
        ("[relays.a]\nport = 25\n", "relays.toml:1: relays.a.host: is missing"),
        (
            '[relays.a]\nhost = "h"\nport = "25"\n',
            "relays.toml:3: relays.a.port: a whole number is needed, without quotes, such as 587",
        ),
        (
            '[relays.a]\nhost = "h"\nport = true\n',
            "relays.toml:3: relays.a.port: a whole number is needed, without quotes, such as 587",
        ),
        (
            '[relays.a]\nhost = "h"\ntls_verify = "no"\n',
            "relays.toml:3: relays.a.tls_verify: true or false is needed, without quotes",
        ),
        (
            '[relays.a]\nhost = "h"\npassword = 4711\n',
            'relays.toml:3: relays.a.password: a text is needed, in quotes, such as "${SES_PASSWORD}"',
        ),
        (
            SMALL + 'fallback = "gamma"\n',
            'relays.toml:5: routes.default.fallback: a list is needed: ["gamma"]',
        ),
        (
            '[routes.default]\nrelays = "beta"\n',
            'relays.toml:2: routes.default.relays: a list is needed: ["beta"]',
        ),
        (
            "[routes.default]\nrelays = 7\n",
            'relays.toml:2: routes.default.relays: a list is needed, such as ["ses", "postfix"]',
        ),
        (
            "[routes.default]\nrelays = [7]\n",
            'toml:2: routes.default.relays[0]: a table is needed, such as { name = "ses", weight = 3 }',
        ),
        (
            "[routes.default.relays]\na = 1\n",
            'relays.toml:1: routes.default.relays: a list is needed, such as ["ses", "postfix"]',
        ),
        (
            SMALL + RULE.replace("[[", "[").replace("]]", "]"),
            "relays.toml:5: relays.a.rules: these are several tables: each begins with [[relays.a.rules]]",
        ),
        (
            SMALL + RULE + "enhanced = 4.7\n",
            "relays.toml:9: relays.a.rules[0].enhanced: a text is needed, in",
        ),
        (SMALL + RULE + "enhanced = 4.7\n", 'in quotes, such as "4.7.28" (the rule a/1)'),
        (
            SMALL + RULE + 'enhanced = ["4.7.1", 4.7]\n',
            'relays.a.rules[0].enhanced[1]: a text is needed, in quotes, such as "4.7.28" (the rule a/1)',
        ),
        (SMALL + RULE + 'name = "mine"\nstge = "dot"\n', "stage may be meant (the rule mine)"),
        (SMALL + RULE + RULE.replace("450", "250"), "is needed (the rule a/2)"),
        (
            SMALL + 'match = "x"\n',
            'routes.default.match: a table is needed, such as { stream = "newsletter" }',
        ),
        (
            '[relays.a]\nhost = "h"\nrules = [7]\n',
            "toml:3: relays.a.rules[0]: a table is needed: [[relays.a.rules]] (the rule a/1)",
        ),
        (SMALL + 'share = "3"\n', "routes.default.share: a number is needed, without quotes, such as 1"),
        (SMALL + "relay = 1\n[relays]\nb = 1\n", "relays.b: a table is needed: [relays.b]"),
        ('[relays.a]\nhost = "h"\nport = 70000\n', "relays.toml:3: relays.a.port: input should be less than"),
        ('[relays.a]\nhost = "h"\nrate = "14"\n', "relays.toml:3: relays.a.rate: a rate such as 14/s"),
        ('[relays.a]\nhost = "h"\nrate = 14\n', "relays.toml:3: relays.a.rate: a rate is written in quotes"),
        (
            '[relays.a]\nhost = "h"\nrate = ["1 recipients/s", "9/m"]\n',
            "relays.toml:3: relays.a.rate: counts messages and recipients",
        ),
        (
            '[relays.a]\nhost = "h"\npreset = "ses"\nrate = "1/s"\nquota = "9 messages/day"\n',
            "relays.toml:5: relays.a.quota: counts messages, and the rate recipients",
        ),
        (
            SMALL + '[relays.a.destinations."b.test"]\nrate = "1 recipients/s"\n',
            "counts recipients; the limits of a destination count messages",
        ),
        (
            SMALL + RULE.replace('relay"', 'destination"') + "fewer_sessions = true\n",
            "relays.a.rules[0].fewer_sessions: they are the relay's, and the scope is another one",
        ),
        (
            '[relays.a]\nhost = "h"\nrate = ["1/s",\n  "0/s"]\n',
            "relays.toml:4: relays.a.rate[1]: its number is from 1",
        ),
        ('[relays.a]\nhost = "h"\nquota = "9/s"\n', "relays.toml:3: relays.a.quota: a quota such as"),
        (
            '[relays.a]\nhost = "h"\nquota = "9/day Mars/Olympus"\n',
            "relays.toml:3: relays.a.quota: no such time zone",
        ),
        (
            '[relays.a]\nhost = "h"\n[relays.a.timeouts]\ndot = "2d"\n',
            "relays.toml:4: relays.a.timeouts.dot: from 0.001s to 1d",
        ),
        (
            '[relays.a]\nhost = "h"\ntimeouts = { dot = 5 }\n',
            "relays.toml:3: relays.a.timeouts.dot: a duration is written in quotes",
        ),
        ('[relays.a]\nhost = "h"\nfrom = "a b"\n', "relays.toml:3: relays.a.from: a domain, or *.domain"),
        ('[relays.a]\nhost = "h\\n"\n', "relays.toml:2: relays.a.host: a control character"),
        (SMALL + RULE + 'for = "0"\n', ".for: from 1s to 7d"),
        (SMALL + RULE + 'for = "8d"\n', ".for: from 1s to 7d"),
        (SMALL + RULE + 'then = { rate = "9%", for = "8d" }\n', ".then.for: from 1s to 7d"),
        (SMALL + 'expire = "0"\n', "routes.default.expire: from 1s to 3650d"),
        (SMALL + 'match = { stream = ["news", "news letter"] }\n', "match.stream[1]: no letter can have it"),
        (SMALL + 'shares = { "news letter" = 3 }\n', 'shares."news letter": no letter can have it'),
        (SMALL + f"shares = {{ {'s' * 65} = 3 }}\n", ": no letter can have it"),
        (
            SMALL + '[suppression]\ntransactional = "a b"\n',
            "suppression.transactional: no letter can have it",
        ),
        ('[relays."a.b"]\nhost = "h"\n', 'relays.toml:1: relays."a.b": a name has up to 40'),
        ('[relays.cursor]\nhost = "h"\n', "relays.toml:1: relays.cursor: a relay cannot have this name"),
        (
            SMALL + '[relays.a.destinations."x y"]\nrate = "1/s"\n',
            'relays.toml:5: relays.a.destinations."x y": a domain, or *.domain, is needed',
        ),
        (
            SMALL + '[relays.a.destinations]\n"x.test" = { rate = "1/s" }\n"X.test" = { rate = "2/s" }\n',
            "relays.toml:5: relays.a.destinations: x.test stands there twice",
        ),
        (SMALL + '[suppression]\nlife = "5s"\n', "relays.toml:6: suppression.life: from 1h to 3650d"),
        (
            SMALL + RULE + 'stge = "dot"\n',
            "relays.toml:9: relays.a.rules[0].stge: is no key here; stage may be meant",
        ),
        (
            SMALL + '[[relays.a.rules]]\naction = "wait"\n',
            "relays.toml:5: relays.a.rules[0].code: a rule needs",
        ),
        (SMALL + RULE + "code = 250\n", "relays.toml:9: it is no TOML: cannot overwrite"),
        (
            SMALL + RULE.replace("450", "250"),
            "relays.toml:6: relays.a.rules[0].code: a reply code from 400 to 599",
        ),
        (
            SMALL + RULE.replace("wait", "fail"),
            "relays.toml:8: relays.a.rules[0].scope: fail is about a recipient",
        ),
        (
            SMALL + RULE + 'then = { rate = "0%", for = "1m" }\n',
            "relays.toml:9: relays.a.rules[0].then.rate: a part of the full rate",
        ),
        (
            SMALL + 2 * (RULE + 'name = "x"\n'),
            "relays.toml:5: relays.a.rules: two have the name x",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\npreset = "sse"\n',
            "relays.b.preset: there is no preset sse; ses may",
        ),
        (SMALL + RULE + 'pattern = "("\n', "relays.toml:9: relays.a.rules[0].pattern: is no regular"),
        (SMALL + "[routes.r]\nrelays = []\n", "relays.toml:6: routes.r.relays: "),
        (SMALL + '[routes.r]\nrelays = ["a"]\n', "relays.toml:5: routes.r: no letter would take it"),
        (SMALL + 'retry = "1m, x"\n', "relays.toml:5: routes.default.retry: "),
        (SMALL + 'window = "Mon 8-20"\n', "relays.toml:5: routes.default.window: is no window such as"),
        (SMALL + "match = {}\n", "relays.toml:5: routes.default.match: cannot be here"),
        (SMALL + ROUTE + "match = {}\n", "relays.toml:8: routes.r.match: is empty"),
        (SMALL + ROUTE + 'fallback = ["a"]\n', "relays.toml:8: routes.r.fallback[0]: a stands there twice"),
        (
            SMALL + '[routes.r]\nopen = true\nrelays = ["default", { name = "a", wight = 1 }]\n',
            "relays.toml:7: routes.r.relays[1].wight: is no key here; weight may be meant",
        ),
        (
            SMALL
            + '[relays.b]\nhost = "h"\n[routes.r]\nopen = true\nrelays = ["a", { name = "b", weight = 1 }]\n',
            "relays.toml:9: routes.r.relays[0]: has no weight, and others have",
        ),
        (
            SMALL + '[routes.r]\nrelays = ["a"]\nmatch = { priority = "urgent" }\n',
            "relays.toml:7: routes.r.match.priority: input should be 'high', 'normal' or 'low'",
        ),
        (
            SMALL + '[routes.r]\nrelays = ["a"]\nmatch = { larger = "1MB", smaller = "1KB" }\n',
            "relays.toml:7: routes.r.match.smaller: no letter is larger than",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\ntls = "none"\nuser = "u"\npassword = "${SENDGRID_KEY}"\n',
            "relays.toml:7: relays.b.tls: is none, so the password would be sent in clear",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\n',
            "relays.toml:7: relays.b.user: has neither password",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\npassword = "${SENDGRID_KEY}"\n',
            "relays.toml:5: relays.b.user: is missing, whom",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\npassword = "${NOWHERE}"\n',
            "relays.toml:8: relays.b.password: NOWHERE is neither in the environment nor a file",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\npassword_file = "/nowhere/x"\n',
            "relays.toml:8: relays.b.password_file: the file /nowhere/x cannot be read: No such file",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\npassword_file = "hunter2"\n',
            "relays.toml:8: relays.b.password_file: a file is named without its path, and MAILSENDER_",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\nauth = "plain"\noauth = { token_file = "/t" }\n',
            "relays.toml:8: relays.b.auth: PLAIN is no mechanism for tokens",
        ),
        (
            SMALL + '[relays.b]\nhost = "h"\nuser = "u"\noauth = { token_url = "http://example.com/" }\n',
            "relays.toml:8: relays.b.oauth: the token endpoint has to begin with https://",
        ),
        ("[relays.a\n", "relays.toml:1: it is no TOML: expected ']'"),
        ('[relays.a]\nhost = "h"\nhost = "i"\n', "relays.toml:3: it is no TOML: cannot overwrite a value"),
        ("x = " + "[" * 3000, "relays.toml:1: more than 16 arrays and tables stand in one another"),
        ("x = [\n" + "{a=" * 300, "relays.toml:2: more than 16 arrays and tables stand in one another"),
        (f"\n{'a.' * 40}a = 1", "relays.toml:2: a key has 41 parts with dots between them; 16 are allowed"),
        (f"\n{QUOTED * 40}a = 1", "relays.toml:2: a key has 81 parts with dots between them; 16 are allowed"),
        (f"[[{'a . ' * 40}a]]", "relays.toml:1: a key has 41 parts with dots between them; 16 are allowed"),
        (f"x = {{{'a.' * 40}a = 1}}", "relays.toml:1: a key has 41 parts with dots between them; 16 are"),
        (f"x = [\n{'1,' * 60_000}]", "relays.toml:2: the file has more than 50000 keys, values, arrays and"),
        ("[[a]]\n" * 30_000, "relays.toml:16667: the file has more than 50000 keys, values, arrays and"),
        (f"x = {'1' * 5000}", "relays.toml:1: a key or a number has more than 1000 characters"),
        (f"x = 0x{'1_1' * 500}", "relays.toml:1: a key or a number has more than 1000 characters"),
        (f"[relays.a]\nport = {'1' * 900}", "relays.toml:2: relays.a.port: "),
        (f"[routes.a]\nshare = {'1' * 900}", "relays.toml:2: routes.a.share: "),
        ("x = '''", "relays.toml:1: it is no TOML: expected \"'''\""),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_key(loaded: Any, text: str, said: str) -> None:
    assert said in complaint(loaded, text)


NO_HOST = "a host's name or address alone is needed, such as smtp.example.com"


@pytest.mark.parametrize(
    "host",
    [
        "smtp://x:25",
        "x.example.com:25",
        "127.0.0.1:25",
        "[::1]:25",
        "user@x.example.com",
        "x.example.com/",
        "x..example.com",
        ".example.org",
        "a b",
        "[x.example.com]",
        "300.1.1.1",
        "-x.example.com",
        f"{'x' * 64}.example.com",
        f"{'x.' * 130}com",
    ],
)
def test_what_can_be_no_host_is_told(loaded: Any, host: str) -> None:
    said = complaint(loaded, SMALL.replace('"h"', f'"{host}"'))
    assert f"relays.toml:2: relays.a.host: {NO_HOST}; its port is the key port" in said
    said = complaint(loaded, SMALL.replace('"h"', '"${HOST_OF_A}"'), HOST_OF_A=host)
    assert f"relays.toml:2: relays.a.host: {NO_HOST}; its port is the key port" in said
    assert host not in said
    said = complaint(loaded, SMALL.replace('"h"', f'"h"\nhelo_name = "{host}"'))
    assert f"relays.toml:3: relays.a.helo_name: {NO_HOST}" in said


@pytest.mark.parametrize(
    "host",
    [
        "postfix",
        "localhost",
        "x.example.com.",
        "X_1.example.com",
        "smtp.пример.рф",
        "xn--e1afmkfd.xn--p1ai",
        "192.0.2.1",
        "127.1",
        "[192.0.2.1]",
        "2001:db8::1",
        "[2001:db8::1]",
        "[IPv6:2001:db8::1]",
        "fe80::1%eth0",
        "3com",
    ],
)
def test_names_and_addresses_are_hosts(loaded: Any, host: str) -> None:
    found = loaded(SMALL.replace('"h"', f'"{host}"\nhelo_name = "{host}"'))
    assert links_of(found)["a"].host == host


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file(loaded: Any) -> None:
    said = complaint(loaded, '[relays.a]\nprot = 1\nrate = "x"\n[routes.default]\nrelys = ["a"]\n')
    assert [int(line) for line in re.findall(r"toml:(\d+):", said)] == [1, 2, 3, 4, 5]


def test_of_many_faults_the_first_are_told(loaded: Any) -> None:
    said = complaint(loaded, "".join(f"x{number} = 1\n" for number in range(50)))
    assert said.count("is no key here") == 20
    assert said.endswith("; and 30 more")


def test_a_file_that_is_not_there_or_none_is_told(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MAILSENDER_CONFIG: /nowhere/x cannot be read: No such file"):
        loaded("", MAILSENDER_CONFIG="/nowhere/x")
    with pytest.raises(SettingsError, match="is no file"):
        loaded("", MAILSENDER_CONFIG=str(tmp_path))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[relays.a]\nhost = "\xe9"\n')
    with pytest.raises(SettingsError, match=r"latin\.toml:2: it is not UTF-8"):
        loaded("", MAILSENDER_CONFIG=str(latin))
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * 1_000_001)
    with pytest.raises(SettingsError, match="longer than 1000000 bytes"):
        loaded("", MAILSENDER_CONFIG=str(large))


def test_the_byte_order_mark_of_some_editors_is_no_part_of_it(loaded: Any) -> None:
    assert plan_of(loaded("\ufeff" + SMALL)).relays[0].name == "a"


# --- secrets -------------------------------------------------------------------------------------

LOGIN = SMALL + '[relays.b]\nhost = "h"\nuser = "u"\n'


def test_a_password_comes_from_a_file_of_the_directory_of_secrets(loaded: Any, tmp_path: Path) -> None:
    text = LOGIN + 'password_file = "ses"\n'
    settings = loaded(text, MAILSENDER_SECRETS_DIR=str(tmp_path))
    assert links_of(settings)["b"].credentials.password == "s3cret"
    filled = loaded(LOGIN + 'password = "${SES}"\n', MAILSENDER_SECRETS_DIR=str(tmp_path))
    assert links_of(filled)["b"].credentials.password == "s3cret"


def test_what_the_file_takes_from_the_environment_is_no_slip(loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "SMTP_OTHER").write_text("x")
    given = {"SMTP_SES_PASSWORD": "p", "MAILSENDER_SECRETS_DIR": str(tmp_path)}
    settings = loaded(LOGIN + 'password = "${SMTP_SES_PASSWORD}"\n', **given)
    assert [slip.name for slip in slips(settings.config)] == ["SMTP_OTHER"]
    assert {slip.name for slip in slips()} == {"SMTP_OTHER", "SMTP_SES_PASSWORD"}


@pytest.mark.parametrize("key", ["password", "client_secret"])
def test_no_secret_is_shown(loaded: Any, key: str) -> None:
    text = LOGIN + 'password = "hunter2"\n'
    if key == "client_secret":
        text = LOGIN + 'oauth = { token_url = "https://t/", client_id = "c", client_secret = "hunter2" }\n'
    settings = loaded(text)
    assert "hunter2" not in repr(settings.config) + repr(settings) + repr(links_of(settings))
    assert "hunter2" in secret_values(settings)
    assert "hunter2" not in complaint(loaded, text + "x = 1\n")


@pytest.mark.parametrize("content", ["", " \n", "a\nb", "x" * 20_000, "\udcff"])
def test_a_file_that_holds_no_password_is_refused_without_its_content(
    loaded: Any, tmp_path: Path, content: str
) -> None:
    (tmp_path / "bad").write_text(content, errors="surrogateescape")
    said = complaint(loaded, LOGIN + f'password_file = "{tmp_path}/bad"\n')
    assert "relays.b.password_file: " in said
    assert "xxx" not in said


# --- the notations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("14/s", Rate(letters=14, period=1.0)),
        ("100/5m", Rate(letters=100, period=300.0)),
        ("2000/1m30s", Rate(letters=2000, period=90.0)),
        ("1/h", Rate(letters=1, period=3600.0)),
        ("5/250ms", Rate(letters=5, period=0.25)),
        ("14 recipients/s", Rate(letters=14, period=1.0, recipients=True)),
        ("14 messages/s", Rate(letters=14, period=1.0, recipients=False)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("50000/24h", Quota(letters=50_000, period=86_400.0)),
        ("500/day", Quota(letters=500)),
        ("500/day Europe/Moscow", Quota(letters=500, timezone="Europe/Moscow")),
        ("9/30d", Quota(letters=9, period=30 * 86_400.0)),
        ("9 recipients/24h", Quota(letters=9, period=86_400.0, recipients=True)),
        ("9 messages/day Asia/Tokyo", Quota(letters=9, timezone="Asia/Tokyo", recipients=False)),
    ],
)
def test_a_quota_is_read(text: str, quota: Quota) -> None:
    assert parse_quota(text) == quota


@pytest.mark.parametrize(
    "text",
    [
        "",
        "14",
        "/s",
        "14/",
        "14/x",
        "-1/s",
        "1.5/s",
        "14 / s",
        "14/0s",
        "٣/s",
        "1/60d",
        "14 people/s",
        "14  recipients/s",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|number|period"):
        parse_rate(text)


@pytest.mark.parametrize(
    "text", ["", "5/d", "5/1m", "5/day ", "5/day ../x", "5/day Nowhere", "0/day", "5/60d"]
)
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quota|number|zone|period"):
        parse_quota(text)


@given(st.text(max_size=30))
def test_any_text_is_a_notation_or_an_error_that_says_so(text: str) -> None:
    said = []
    for parse in (parse_rate, parse_quota, parse_percent):
        try:
            parse(text)
        except ValueError as error:
            said.append(str(error))
    assert all(said)


def test_the_rest_of_a_route_is_read(loaded: Any) -> None:
    text = SMALL + (
        "[routes.low]\n"
        'match = { priority = ["low", "normal"], sender = "*.Example.COM", destination = ["b@пример.рф"],'
        ' tag = "t", larger = "1MB", smaller = "2MB" }\n'
        'relays = ["a"]\nshares = { x = 3 }\nreserve = "10%"\nopen = true\nshare = 0.5\n'
    )
    plan: Plan = plan_of(loaded(text))
    route = plan.routes[1]
    assert route.match == Match(
        senders=("*.example.com",),
        destinations=("b@xn--e1afmkfd.xn--p1ai",),
        priorities=(Priority.LOW, Priority.NORMAL),
        tags=("t",),
        larger=1_000_000,
        smaller=2_000_000,
    )
    assert (route.shares, route.share, route.reserve, route.open) == ({"x": 3.0}, 0.5, 0.1, True)


def test_a_relay_without_limits_has_none(loaded: Any) -> None:
    relay = plan_of(loaded(SMALL)).relays[0]
    assert relay.allowance.unlimited
    assert relay.further == ()
    assert (relay.policy.max_recipients, relay.policy.sessions.sessions, relay.connections_total) == (
        100,
        5,
        0,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_the_limits_of_a_preset_hold_where_the_file_says_nothing(loaded: Any, preset: str) -> None:
    text = f'[relays.a]\nhost = "h"\npreset = "{preset}"\n[routes.default]\nrelays = ["a"]\n'
    limits, relay = PRESETS[preset].limits, plan_of(loaded(text)).relays[0]
    assert relay.connections_total == limits.connections_total
    assert relay.policy.max_recipients == (limits.max_recipients or 100)
    assert bool(relay.allowance.letters) == bool(limits.rates)
    assert bool(relay.allowance.quota) == bool(limits.quota)
    own = text.replace(
        "[routes", 'rate = "7/s"\nquota = "9/day"\nconnections_total = 1\nmax_recipients = 2\n[routes'
    )
    relay = plan_of(loaded(own)).relays[0]
    assert (relay.allowance.letters, relay.allowance.quota, relay.allowance.quota_period) == (7, 9, 0.0)
    assert (relay.connections_total, relay.policy.max_recipients) == (1, 2)


@pytest.mark.parametrize(
    ("limits", "counted"),
    [
        ('preset = "ses"\nrate = "14/s"\nquota = "50000/24h"', (True, False, 0)),
        ('preset = "ses"\nrate = "14 messages/s"\nquota = "50000/24h"\nburst = 3', (False, True, 3)),
        ('preset = "ses"\nquota = "50000/24h"', (True, False, 0)),
        ('preset = "microsoft365"', (False, True, 1)),
        ('rate = "14/s"\nquota = "50000/24h"', (False, False, 1)),
        ('rate = "14 recipients/s"\nburst = 0', (True, False, 0)),
        ('quota = "9 recipients/day"', (True, False, 1)),
    ],
)
def test_what_is_counted_is_as_the_file_says_else_as_the_preset_has_it(
    loaded: Any, limits: str, counted: tuple[bool, bool, int]
) -> None:
    text = f'[relays.a]\nhost = "h"\n{limits}\n[routes.default]\nrelays = ["a"]\n'
    found = plan_of(loaded(text)).relays[0].allowance
    assert (found.by_recipient, found.quota_by_recipient, found.burst) == counted


def test_the_list_of_suppressed_addresses_is_as_the_file_says_before_the_settings(loaded: Any) -> None:
    policy = plan_of(loaded(SMALL)).suppression
    assert policy == SuppressionPolicy()
    text = SMALL + '[suppression]\nlife = "7d"\ntransactional = "codes"\n'
    policy = plan_of(loaded(text, SUPPRESSION_LEARN="true", SUPPRESSION_LIFE="3d")).suppression
    assert policy == SuppressionPolicy(learns=True, life=7 * 86_400.0, transactional=frozenset({"codes"}))
    assert not plan_of(loaded(SMALL + "[suppression]\nlearn = false\n")).suppression.learns


def test_the_parts_of_each_relay_are_built(loaded: Any) -> None:
    from mailsender.app import build

    settings = loaded(ISSUE + OTHERS, SMTP_HOST="smtp.example.com")
    parts = build(settings, SystemClock())
    assert list(parts.relays) == [DEFAULT, "ses", "sendgrid", "postfix"]
    assert parts.relays["sendgrid"].transport.name == "sendgrid"
    assert parts.relays["sendgrid"].transport.address == "smtp.sendgrid.net:465"
    assert len({id(each.slots) for each in parts.relays.values()}) == 4


def test_links_are_told_by_the_name_that_the_file_has_for_their_relay(loaded: Any) -> None:
    """Two accounts on one host could not be told apart in the log otherwise."""
    links = links_of(loaded(ISSUE + OTHERS, SMTP_HOST="smtp.example.com"))
    assert [each.told for each in links.values()] == ["smtp.example.com:587", "ses", "sendgrid", "postfix"]
    unverified = replace(links["sendgrid"], verify=False)
    with capture_logs() as logs:
        relay = SmtpRelay(unverified, SystemClock())
    assert (relay.name, relay.address) == ("sendgrid", "smtp.sendgrid.net:465")
    assert [(each["event"], each["relay"]) for each in logs] == [
        ("relay_certificate_not_verified", "sendgrid")
    ]


def test_a_relay_may_log_in_by_tokens(loaded: Any, tmp_path: Path) -> None:
    text = SMALL + (
        '[relays.g]\nhost = "smtp.gmail.com"\nuser = "a@example.com"\nauth = "xoauth2"\n'
        '[relays.g.oauth]\ntoken_url = "https://oauth2.example.com/token"\nclient_id = "c"\n'
        'client_secret_file = "SECRETS/ses"\nrefresh_file = "SECRETS/refresh"\nscope = "mail"\n'
    )
    settings = loaded(text)
    assert links_of(settings)["g"].credentials == Credentials(
        user="a@example.com",
        mechanism="XOAUTH2",
        tokens=TokenEndpoint(
            url="https://oauth2.example.com/token",
            client_id="c",
            client_secret="s3cret",
            refresh_file=str(tmp_path / "refresh"),
            scope="mail",
        ),
    )
    assert "s3cret" in secret_values(settings)
    filed = loaded(SMALL + '[relays.g]\nhost = "h"\nuser = "u"\noauth = { token_file = "/run/t" }\n')
    assert links_of(filed)["g"].credentials.tokens == TokenFile(path="/run/t")


def test_the_path_is_told_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("a = 1")
    with pytest.raises(SettingsError) as caught:
        read_config(str(path), smtp=True)
    assert str(path) in str(caught.value)
