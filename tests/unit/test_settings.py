"""The environment: every name, what is refused and how it is said, and what must never be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri

from mailsender.settings.environment import Settings, Slip, astray, load, slips
from mailsender.settings.kinds import parse_duration
from mailsender.settings.links import smtp_config
from mailsender.settings.secrets import secret_values
from mailsender.settings.sources import SettingsError, place
from mailsender.settings.table import table
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile

NEEDED = {
    "SMTP_HOST": "smtp.example.test",
    "SMTP_USER": "robot@example.test",
    "KAFKA_BROKERS": "kafka-1:9092,kafka-2:9092",
    "MONGODB_URI": "mongodb://db.example.test/",
}

ORIGINAL = {
    "SMTP_RATE_LIMIT_PERIOD": ("1m", "smtp_rate_limit_period", 60.0),
    "SMTP_RATE_LIMIT_MAX_LETTERS": ("7", "smtp_rate_limit_max_letters", 7),
    "SMTP_HOST": ("relay.example.test", "smtp_host", "relay.example.test"),
    "SMTP_PORT": ("2525", "smtp_port", 2525),
    "SMTP_USER": ("other@example.test", "smtp_user", "other@example.test"),
    "SMTP_MAX_SENDERS": ("9", "smtp_max_senders", 9),
    "KAFKA_BROKERS": ("k:1", "kafka_brokers", "k:1"),
    "KAFKA_TOPIC_MAILSENDER": ("in", "kafka_topic_mailsender", "in"),
    "KAFKA_TOPIC_PROFILE": ("out", "kafka_topic_profile", "out"),
    "KAFKA_GROUPID": ("g", "kafka_groupid", "g"),
    "MONGO_NODEPORT_SVC_SERVICE_HOST": ("mongo", "mongo_nodeport_svc_service_host", "mongo"),
    "MONGO_NODEPORT_SVC_SERVICE_PORT": ("27018", "mongo_nodeport_svc_service_port", 27018),
    "MONGODB_USERNAME": ("u", "mongodb_username", "u"),
    "MONGO_LOCAL": ("mongodb://x/", "mongo_local", "mongodb://x/"),
    "MONGODB_BASE_NAME": ("base", "mongodb_base_name", "base"),
    "MONGODB_COLLECTION": ("mail", "mongodb_collection", "mail"),
}
"""Every name of the original service but its two passwords, which have tests of their own."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Set the needed variables and those given, unset those given as None, and read them."""
    monkeypatch.chdir(tmp_path)

    def read(**variables: str | None) -> Settings:
        for name, value in {**NEEDED, **variables}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return load()

    return read


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_name_of_the_original_works(environment: Any, name: str) -> None:
    given_value, attribute, expected = ORIGINAL[name]
    assert getattr(environment(**{name: given_value}), attribute) == expected


def test_the_originals_names_are_marked_in_the_table() -> None:
    marked = {row.name for row in table() if row.original}
    assert marked == {*ORIGINAL, "SMTP_PASSWORD", "MONGODB_PASSWORD"}


def test_the_originals_defaults_are_kept(environment: Any) -> None:
    settings = environment()
    assert (settings.smtp_rate_limit_max_letters, settings.smtp_rate_limit_period) == (5, 5.0)
    assert (settings.mongodb_base_name, settings.mongodb_collection) == ("mts", "letters")
    assert settings.http_port == 8000
    assert settings.allowance.rate <= 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_PORT", "0"),
        ("SMTP_PORT", "65536"),
        ("SMTP_PORT", "smtp"),
        ("SMTP_TLS", "ssl"),
        ("SMTP_TLS_VERIFY", "perhaps"),
        ("SMTP_MAX_SENDERS", "0"),
        ("SMTP_RATE_LIMIT_MAX_LETTERS", "-1"),
        ("SMTP_RATE_LIMIT_PERIOD", "5"),
        ("SMTP_RATE_LIMIT_PERIOD", "0"),
        ("SMTP_RATE_LIMIT_PERIOD", "-5s"),
        ("SMTP_REFUSE_PROBABILITY", "1.5"),
        ("SMTP_QUOTA_TIMEZONE", "Mars/Olympus"),
        ("SMTP_QUOTA_TIMEZONE", "../../etc/passwd"),
        ("SMTP_FROM", "nobody"),
        ("SMTP_FROM", "x" * 257 + " <a@example.test>"),
        ("SMTP_FROM", "Shop\u2028Ltd <a@example.test>"),
        ("SMTP_FROM", "a@example.test, b@example.test"),
        ("SMTP_FROM", "A\nBcc: x@example.test <a@example.test>"),
        ("KAFKA_BROKERS", ","),
        ("KAFKA_BROKERS", "kafka"),
        ("KAFKA_BROKERS", "kafka:http"),
        ("KAFKA_BROKERS", "kafka:70000"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SESSION_TIMEOUT", "1s"),
        ("LETTER_MAX_BYTES", "99999999999"),
        ("MONGODB_RETENTION", "1s"),
        ("CODE_SECRET", "s" * 31),
        ("CODE_LENGTH", "4"),
        ("CODE_LIFE", "10"),
        ("HTTP_PORT", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_setting(environment: Any, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert "pydantic" not in text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_value_is_named(environment: Any, name: str) -> None:
    with pytest.raises(SettingsError, match=name if name != "SMTP_USER" else "SMTP_FROM"):
        environment(**{name: None})


@pytest.mark.parametrize("value", ["1" + 21 * "0", "1" + 400 * "0", "nan", "inf"])
@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation in {int, float}]
)
def test_every_number_is_bounded(environment: Any, name: str, value: str) -> None:
    is_duration = isinstance(Settings.model_fields[name].default, float) and "probability" not in name
    with pytest.raises(SettingsError, match=f"^{name.upper()}: [^:]+$"):
        environment(**{name.upper(): value + "d" * is_duration})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("MONGODB_BASE_NAME", "a.b", "'.' cannot stand in it"),
        ("MONGODB_BASE_NAME", "x y", "a space cannot stand in it"),
        ("MONGODB_BASE_NAME", "ж" * 40, "63 bytes"),
        ("MONGODB_COLLECTION", "a$b", "'$' cannot stand in it"),
        ("MONGODB_COLLECTION", ".x", "dot"),
        ("MONGODB_COLLECTION", "x.", "dot"),
        ("MONGODB_COLLECTION", "x..y", "dot"),
        ("MONGODB_COLLECTION", "system.x", "system."),
        ("MONGODB_COLLECTION", "x" * 181, "180 bytes"),
        ("KAFKA_TOPIC_MAILSENDER", "a b", "letters, digits"),
        ("KAFKA_TOPIC_PROFILE", "ж", "letters, digits"),
        ("KAFKA_TOPIC_DEAD_LETTER", "..", "letters, digits"),
        ("KAFKA_TOPIC_DEAD_LETTER", "x" * 250, "249"),
    ],
)
def test_a_name_that_a_store_would_not_take_is_refused_by_setting(
    environment: Any, name: str, value: str, why: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: .*{re.escape(why)}"):
        environment(**{name: value})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("KAFKA_TOPIC_MAILSENDER", "KAFKA_TOPIC_PROFILE"),
        ("KAFKA_TOPIC_MAILSENDER", "KAFKA_TOPIC_DEAD_LETTER"),
        ("KAFKA_TOPIC_PROFILE", "KAFKA_TOPIC_DEAD_LETTER"),
    ],
)
def test_each_topic_is_another_one(environment: Any, first: str, second: str) -> None:
    with pytest.raises(SettingsError, match=f"^{second}: .*{first}"):
        environment(**{first: "same", second: "same"})


def test_the_bound_of_a_duration_is_told_as_one(environment: Any) -> None:
    with pytest.raises(SettingsError, match=r"^MONGODB_TIMEOUT: at most 1h$"):
        environment(MONGODB_TIMEOUT="2h")
    with pytest.raises(SettingsError, match=r"^MONGODB_RETENTION: at least 1m$"):
        environment(MONGODB_RETENTION="1s", MONGODB_TIMEOUT=None)


def test_several_bad_values_are_named_in_one_line(environment: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(SMTP_HOST=None, SMTP_PORT="x", KAFKA_BROKERS="y")
    text = str(caught.value)
    assert [name for name in ("SMTP_HOST", "SMTP_PORT", "KAFKA_BROKERS") if f"{name}: " not in text] == []
    assert "\n" not in text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"KAFKA_BROKERS": None, "MONGODB_URI": None}, ("KAFKA_BROKERS", "MONGODB_URI")),
        ({"KAFKA_BROKERS": None, "MONGODB_URI": None, "MONGO_LOCAL": "mongodb://x/"}, ("KAFKA_BROKERS",)),
        (
            {"SMTP_USER": None, "MONGODB_URI": None, "HTTP_HOST": "0.0.0.0"},
            ("SMTP_FROM", "MONGODB_URI", "HTTP_API_KEY"),
        ),
        (
            {"MONGODB_URI": "nonsense", "SMTP_PASSWORD": "p", "SMTP_TLS": "none"},
            ("MONGODB_URI", "SMTP_TLS"),
        ),
    ],
)
def test_what_is_judged_over_several_settings_is_named_together(
    environment: Any, given: dict[str, str | None], named: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**given)
    assert tuple(part.partition(": ")[0] for part in str(caught.value).split("; ") if ": " in part) == named


def test_an_empty_variable_counts_as_absent(environment: Any) -> None:
    assert environment(SMTP_PORT="").smtp_port == 587


SECRETS = {
    "SMTP_PASSWORD": "s3cret-smtp",
    "KAFKA_SASL_PASSWORD": "s3cret-kafka",
    "MONGODB_PASSWORD": "s3cret-mongo",
    "HTTP_API_KEY": "s3cret-http",
    "MONGODB_URI": "mongodb://user:s3cret-uri@db.example.test/",
    "MONGO_LOCAL": "mongodb://user:s3cret-local@db.example.test/",
}


def test_secrets_are_not_in_the_repr(environment: Any) -> None:
    settings = environment(**SECRETS)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)


@pytest.mark.parametrize(
    "wrong", [{"SMTP_PORT": "x"}, {"SMTP_TLS": "none"}, {"SMTP_FROM": "nobody"}, {"KAFKA_BROKERS": "x"}]
)
def test_secrets_are_not_in_the_complaint(environment: Any, wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**SECRETS, **wrong)
    assert "s3cret" not in str(caught.value)


def test_every_secret_is_known_to_the_log(environment: Any) -> None:
    settings = environment(**SECRETS)
    plain = {f"s3cret-{part}" for part in ("smtp", "kafka", "mongo", "http", "uri", "local")}
    said_in_auth_plain = f"\0{settings.smtp_user}\0s3cret-smtp"  # its base64 shows no base64 of the password
    assert set(secret_values(settings)) == plain | {said_in_auth_plain}


@given(
    user=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_user_and_password_are_escaped_in_the_uri(user: str, password: str) -> None:
    settings = Settings(
        smtp_host="h",
        smtp_user="a@example.test",
        kafka_brokers="k:1",
        mongo_nodeport_svc_service_host="db",
        mongo_nodeport_svc_service_port=27018,
        mongodb_username=user,
        mongodb_password=password,  # type: ignore[arg-type]
    )
    parsed = parse_uri(settings.mongo_uri)
    assert (parsed["username"], parsed["password"]) == (user, password)
    assert parsed["nodelist"] == [("db", 27018)]


@pytest.mark.parametrize("name", ["MONGODB_URI", "MONGO_LOCAL"])
@pytest.mark.parametrize(
    "password", ["geheim@wort/Zwei", "geheim/wort", "geheim:wort", "gehe[im@wort", "12?geheim=wort"]
)
def test_a_password_that_is_not_encoded_stops_the_start_and_is_not_told(
    environment: Any, name: str, password: str
) -> None:
    variables = {"MONGODB_URI": None, name: f"mongodb://u:{password}@127.0.0.1:1/"}
    with pytest.raises(SettingsError) as caught:
        environment(**variables)
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "percent-encoded" in text
    assert [piece for piece in ("gehe", "wort", "Zwei") if piece in text] == []


def test_a_host_that_is_more_than_one_is_named(environment: Any) -> None:
    with pytest.raises(SettingsError, match=r"^MONGO_NODEPORT_SVC_SERVICE_HOST: "):
        environment(MONGODB_URI=None, MONGO_NODEPORT_SVC_SERVICE_HOST="mongodb://db/")


def test_a_uri_takes_precedence_over_its_parts(environment: Any) -> None:
    settings = environment(MONGO_LOCAL="mongodb://local/", MONGO_NODEPORT_SVC_SERVICE_HOST="part")
    assert settings.mongo_uri == NEEDED["MONGODB_URI"]
    settings = environment(
        MONGODB_URI=None, MONGO_LOCAL="mongodb://local/", MONGO_NODEPORT_SVC_SERVICE_HOST="x"
    )
    assert settings.mongo_uri == "mongodb://local/"
    assert not settings.in_memory
    assert environment(MONGODB_URI="memory:").in_memory


@pytest.mark.parametrize(
    ("port", "given_tls", "expected"),
    [
        (None, None, "starttls"),
        ("465", None, "implicit"),
        ("587", None, "starttls"),
        ("25", None, "starttls"),
        ("465", "starttls", "starttls"),
        ("2525", "implicit", "implicit"),
        ("465", "none", "none"),
    ],
)
def test_tls_follows_the_port_unless_said_otherwise(
    environment: Any, port: str | None, given_tls: str | None, expected: str
) -> None:
    assert environment(SMTP_PORT=port, SMTP_TLS=given_tls).smtp_tls == expected


def test_a_password_does_not_go_out_in_clear_text_unless_told_so(environment: Any) -> None:
    with pytest.raises(SettingsError, match="SMTP_TLS: is none"):
        environment(SMTP_TLS="none", SMTP_PASSWORD="pass")
    settings = environment(SMTP_TLS="none", SMTP_PASSWORD="pass", SMTP_AUTH_CLEARTEXT="true")
    assert settings.authenticates
    assert not environment(SMTP_PASSWORD=None).authenticates


BY_ENDPOINT = {
    "SMTP_PASSWORD": None,
    "SMTP_TOKEN_URL": "https://login.example.test/token",
    "SMTP_TOKEN_CLIENT_ID": "app",
    "SMTP_TOKEN_CLIENT_SECRET": "s3cret",
}


def test_tokens_take_the_place_of_a_password(environment: Any) -> None:
    settings = environment(SMTP_TOKEN_FILE="/run/token", SMTP_PASSWORD=None, SMTP_AUTH="oauthbearer")
    assert settings.authenticates
    assert settings.credentials == Credentials(
        user="robot@example.test", tokens=TokenFile(path="/run/token"), mechanism="OAUTHBEARER"
    )
    settings = environment(**BY_ENDPOINT, SMTP_TOKEN_FILE=None, SMTP_TOKEN_SCOPE="send", SMTP_AUTH=None)
    assert settings.credentials == Credentials(
        user="robot@example.test",
        tokens=TokenEndpoint(
            url="https://login.example.test/token", client_id="app", client_secret="s3cret", scope="send"
        ),
    )
    assert smtp_config(settings).credentials == settings.credentials
    assert secret_values(settings) == ("s3cret",)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"SMTP_AUTH": "cram-md5"}, "SMTP_AUTH: input should be 'auto', 'scram-sha-256'"),
        ({"SMTP_AUTH": "xoauth2", "SMTP_PASSWORD": "p"}, "SMTP_AUTH: XOAUTH2 is no mechanism for a password"),
        ({"SMTP_TOKEN_FILE": "/t", "SMTP_PASSWORD": "p"}, "SMTP_TOKEN_FILE: a password and tokens are given"),
        ({**BY_ENDPOINT, "SMTP_TOKEN_FILE": "/t"}, "SMTP_TOKEN_FILE: SMTP_TOKEN_URL is set, too"),
        (
            {**BY_ENDPOINT, "SMTP_TOKEN_URL": "http://a.test/"},
            "SMTP_TOKEN_URL: the token endpoint has to begin",
        ),
        ({**BY_ENDPOINT, "SMTP_TOKEN_CLIENT_ID": None}, "SMTP_TOKEN_URL: the client's id is missing"),
        ({"SMTP_TOKEN_SCOPE": "send"}, "SMTP_TOKEN_SCOPE: SMTP_TOKEN_URL is missing"),
        ({**BY_ENDPOINT, "SMTP_TLS": "none"}, "SMTP_TLS: is none, so the token would be sent in clear text"),
    ],
)
def test_what_does_not_go_together_stops_the_start(
    environment: Any, variables: dict[str, str | None], complaint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**{"SMTP_PASSWORD": None, **variables})
    assert complaint in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "mailsender.internal"])
def test_it_does_not_listen_beyond_loopback_without_a_key(environment: Any, host: str) -> None:
    with pytest.raises(SettingsError, match="HTTP_API_KEY: is missing"):
        environment(HTTP_HOST=host)
    assert environment(HTTP_HOST=host, HTTP_ALLOW_ANONYMOUS="true").bind_host == host
    assert environment(HTTP_HOST=host, HTTP_API_KEY="key", HTTP_ALLOW_ANONYMOUS=None).bind_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(environment: Any, host: str) -> None:
    assert environment(HTTP_HOST=host).bind_host == host


def test_where_it_listens_by_default_depends_on_the_key(environment: Any) -> None:
    assert environment().bind_host == "127.0.0.1"
    assert environment(HTTP_API_KEY="key").bind_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("given_from", "expected"),
    [
        (None, ("", "robot@example.test")),
        ("post@example.test", ("", "post@example.test")),
        ("Почта <post@example.test>", ("Почта", "post@example.test")),
    ],
)
def test_the_sender(environment: Any, given_from: str | None, expected: tuple[str, str]) -> None:
    assert environment(SMTP_FROM=given_from).sender == expected


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5))
def test_durations_add_up(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(text) == pytest.approx(sum(number * UNITS[unit] for number, unit in parts))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1m30s", 90), ("1.5h", 5400), ("0", 0), (" 5s ", 5), ("30d", 2592000)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@given(st.text().filter(lambda text: not any(char.isdigit() for char in text)))
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["5", "5 s", "-5s", "s", "5s5", "1e3s", "５s", "inf"])
def test_what_is_nearly_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_the_table_has_every_setting_with_a_meaning() -> None:
    rows = table()
    assert [row.name.lower() for row in rows] == list(Settings.model_fields)
    assert [row.name for row in rows if not row.meaning.endswith(".")] == []
    assert [row.name for row in rows if row.default == "required"] == ["SMTP_HOST", "KAFKA_BROKERS"]


def test_the_table_says_what_a_setting_takes() -> None:
    takes = {row.name: row.values for row in table()}
    assert takes["SMTP_PORT"] == "number from 1 to 65535"
    assert takes["SMTP_TLS"] == "implicit, starttls, none"
    assert takes["SMTP_TLS_VERIFY"] == "true, false"
    assert takes["SMTP_RATE_LIMIT_PERIOD"] == "duration to 3650d"
    assert takes["MONGODB_TIMEOUT"] == "duration from 0.5s to 1h"
    assert takes["KAFKA_SESSION_TIMEOUT"] == "duration from 6s to 1h"
    assert takes["SMTP_HOST"] == "text"


def test_settings_may_lie_in_files_and_the_environment_goes_before_them(
    environment: Any, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "SMTP_PASSWORD").write_text("from a file\n")
    (secrets / "http_api_key").write_text("a key")
    (secrets / "SMTP_HOST").write_text("not.this.one")
    settings = environment(MAILSENDER_SECRETS_DIR=str(secrets))
    assert settings.smtp_password.get_secret_value() == "from a file"
    assert settings.http_api_key.get_secret_value() == "a key"
    assert settings.smtp_host == "smtp.example.test"


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {} ", "\t{}", "\ufeff{}\n"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_HOST", "smtp.example.test"),
        ("SMTP_PASSWORD", "pass word"),
        ("HTTP_API_KEY", "key"),
        ("KAFKA_TOPIC_PROFILE", "topic"),
        ("MONGODB_URI", "mongodb://u:p@db.example.test/"),
        ("SMTP_PORT", "2525"),
        ("SMTP_TLS", "implicit"),
    ],
)
def test_what_stands_around_a_value_is_no_part_of_it(
    environment: Any, tmp_path: Path, around: str, name: str, value: str
) -> None:
    bare = getattr(environment(**{name: value}), name.lower())
    assert getattr(environment(**{name: around.format(value)}), name.lower()) == bare
    (tmp_path / name).write_text(around.format(value), encoding="utf-8")
    settings = environment(**{name: None, "MAILSENDER_SECRETS_DIR": f"{tmp_path}\n"})
    assert getattr(settings, name.lower()) == bare


def test_a_variable_of_spaces_counts_as_absent(environment: Any, tmp_path: Path) -> None:
    assert environment(SMTP_PORT=" \n").smtp_port == 587
    (tmp_path / "SMTP_PORT").write_text("2525\n")
    assert environment(SMTP_PORT=" ", MAILSENDER_SECRETS_DIR=str(tmp_path)).smtp_port == 2525


@pytest.mark.parametrize(
    "name", ["SMTP_HOST", "SMTP_PASSWORD", "HTTP_API_KEY", "KAFKA_GROUPID", "MONGODB_URI"]
)
@pytest.mark.parametrize("inside", ["\n", "\r", "\t", "\x1b", "\x7f", "\x85"])
def test_a_control_character_within_a_value_is_refused_by_name(
    environment: Any, name: str, inside: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**{name: f"s3cret{inside}tail"})
    assert str(caught.value).startswith(f"{name}: ")
    assert "control character" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_value_that_is_no_text_is_refused_by_name(environment: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^SMTP_PASSWORD: it is not UTF-8"):
        environment(SMTP_PASSWORD=b"pa\xdf".decode("utf-8", "surrogateescape"))
    (tmp_path / "SMTP_PASSWORD").write_bytes(b"pa\xdf")
    with pytest.raises(SettingsError, match=r"^SMTP_PASSWORD: it is not UTF-8"):
        environment(SMTP_PASSWORD=None, MAILSENDER_SECRETS_DIR=str(tmp_path))


def test_a_file_of_a_setting_that_cannot_be_read_is_named(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "SMTP_PASSWORD").mkdir()
    (tmp_path / "..data").mkdir()
    with pytest.raises(SettingsError, match=r"^SMTP_PASSWORD: its file .* cannot be read"):
        environment(MAILSENDER_SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_HOST", '"smtp.example.test"'),
        ("SMTP_FROM", '"Shop <shop@example.test>"'),
        ("SMTP_FROM", "'shop@example.test'"),
        ("SMTP_PORT", "'587'"),
        ("KAFKA_BROKERS", '"k:1"'),
        ("MONGODB_URI", "'mongodb://db.example.test/'"),
        ("SMTP_RATE_LIMIT_PERIOD", '"5s"'),
    ],
)
def test_quotes_around_a_value_are_named_as_the_cause(environment: Any, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: the quotes around it are a part of it"):
        environment(**{name: value})


def test_quotes_of_a_name_or_a_password_are_its_own(environment: Any) -> None:
    assert environment(SMTP_FROM='"Shop, Ltd" <shop@example.test>').sender[0] == "Shop, Ltd"
    assert environment(SMTP_PASSWORD='"pass"').smtp_password.get_secret_value() == '"pass"'


@pytest.mark.parametrize("name", ["SMTP_HOST", "MONGO_NODEPORT_SVC_SERVICE_PORT"])
def test_a_service_link_of_kubernetes_is_named_as_the_cause(environment: Any, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: .*enableServiceLinks"):
        environment(**{name: "tcp://10.0.0.1:25"})


def test_a_directory_of_secrets_that_is_none_is_named(environment: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MAILSENDER_SECRETS_DIR"):
        environment(MAILSENDER_SECRETS_DIR=str(tmp_path / "missing"))


def test_defaults_as_the_table_shows_them_are_the_real_ones(environment: Any) -> None:
    settings = environment()
    for row in table():
        value = getattr(settings, row.name.lower())
        if isinstance(value, float) and row.default[-1:] in "smhd":
            assert parse_duration(row.default) == value, row.name


def test_settings_do_not_change(environment: Any) -> None:
    settings = environment()
    with pytest.raises(ValueError, match="frozen"):
        settings.smtp_port = 1


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SMTP_RATE_LIMIT_MAX_LETTER", "SMTP_RATE_LIMIT_MAX_LETTERS"),
        ("smtp_pasword", "SMTP_PASSWORD"),
        ("KAFKA_BROKER", "KAFKA_BROKERS"),
        ("MONGODB_URL", "MONGODB_URI"),
        ("MONGO_NODEPORT_SVC_SERVICE_HOSTS", "MONGO_NODEPORT_SVC_SERVICE_HOST"),
        ("QUEUE_MAX_LETTER", "QUEUE_MAX_LETTERS"),
        ("LOG_LEVLE", "LOG_LEVEL"),
        ("KAFKA_GROUP_ID", "KAFKA_GROUPID"),
        ("SMTP_RATE_LIMIT_MAX", "SMTP_RATE_LIMIT_MAX_LETTERS"),
        ("SMTP_PASSWROD", "SMTP_PASSWORD"),
        ("SMTP_SERVER_FARM", ""),
    ],
)
def test_a_slip_in_a_name_is_told_with_the_nearest(name: str, nearest: str) -> None:
    assert astray([name, "PATH", "SMTP_HOST"]) == {name.upper(): nearest}


def test_a_slip_in_the_name_of_a_secret_s_file_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SMTP_PASSWROD", "tls.crt", "..data", "SMTP_USER"):
        (tmp_path / name).write_text("s3cret")
    monkeypatch.setenv("MAILSENDER_SECRETS_DIR", f"{tmp_path}\n")
    monkeypatch.setenv("SMTP_RATE_LIMIT_MAX", "5")
    assert slips() == [
        Slip("SMTP_RATE_LIMIT_MAX", "SMTP_RATE_LIMIT_MAX_LETTERS", "the environment"),
        Slip("SMTP_PASSWROD", "SMTP_PASSWORD", f"a file in {tmp_path}"),
    ]


def test_where_a_service_with_these_settings_is(environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == ("127.0.0.1", environment().http_port)
    for host, seen in (("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7")):
        monkeypatch.setenv("HTTP_HOST", host)
        monkeypatch.setenv("HTTP_PORT", " 8010\n")
        assert place() == (seen, 8010)
    monkeypatch.setenv("HTTP_PORT", "tcp://10.0.0.1:80")
    monkeypatch.delenv("HTTP_HOST")
    assert place()[1] == environment().http_port, "a link to a Service of Kubernetes is no port"
    monkeypatch.setenv("HTTP_PORT", "http")
    with pytest.raises(SettingsError, match=r"^HTTP_PORT: "):
        place()


def test_a_setting_that_is_missing_is_told_with_the_slip_that_may_be_it(environment: Any) -> None:
    words = r"^SMTP_HOST: is missing \(SMTP_HOTS is set, in the environment\)"
    with pytest.raises(SettingsError, match=words):
        environment(SMTP_HOST=None, SMTP_HOTS="smtp.example.test")


@pytest.mark.parametrize(
    "name",
    [
        *("KAFKA_PORT", "KAFKA_PORT_9092_TCP", "KAFKA_PORT_9092_TCP_ADDR", "KAFKA_PORT_9092_TCP_PROTO"),
        *("KAFKA_SERVICE_HOST", "KAFKA_SERVICE_PORT", "KAFKA_SERVICE_PORT_CLIENT", "SMTP_SERVICE_HOST"),
        *("MONGO_NODEPORT_SVC_PORT", "MONGO_NODEPORT_SVC_PORT_27017_TCP", "SMTP_PORT_25_TCP_PORT"),
        *("MAILSENDER_SERVICE_HOST", "MAILSENDER_PORT", "MAILSENDER_URL", "HTTP_PROXY", "KAFKA_HEAP_OPTS"),
        *("KAFKA_HOME", "MONGO_INITDB_ROOT_PASSWORD", "MONGODB_ROOT_PASSWORD", "LOG_DIR", "QUEUE_URL"),
        *(name.upper() for name in Settings.model_fields),
    ],
)
def test_what_platforms_and_other_programs_put_there_is_no_slip(name: str) -> None:
    assert astray([name]) == {}


def test_what_kubernetes_says_about_a_service_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**NEEDED, "SMTP_PORT": "tcp://10.0.0.7:25", "HTTP_PORT": "tcp://10.0.0.8:80"}.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.smtp_port, settings.http_port) == (587, 8000)
