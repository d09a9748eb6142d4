"""What `check` says of the settings alone."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from mailsender.check.run import _judge
from mailsender.settings.environment import Settings


def test_quotes_around_a_secret_are_a_warning_that_does_not_tell_it() -> None:
    settings = Settings(
        smtp_host="h",
        smtp_user="a@example.test",
        smtp_password=SecretStr('"s3cret"'),
        kafka_brokers="k:1",
        mongodb_uri="mongodb://m/",
    )
    (found,) = [finding for finding in _judge(settings) if finding.level == "warning"]
    assert found.text.startswith("SMTP_PASSWORD: the quotes")
    assert "s3cret" not in found.text


def test_a_name_that_is_no_setting_is_a_warning_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_RATE_LIMIT_MAX", "5")
    monkeypatch.setenv("SMTP_SERVER_FARM", "5")
    settings = Settings(
        smtp_host="h", smtp_user="a@example.test", kafka_brokers="k:1", mongodb_uri="mongodb://m/"
    )
    first, second = [finding.text for finding in _judge(settings) if finding.level == "warning"]
    assert first == (
        "SMTP_RATE_LIMIT_MAX (in the environment) is no setting and is ignored;"
        " SMTP_RATE_LIMIT_MAX_LETTERS may be meant"
    )
    assert second == "SMTP_SERVER_FARM (in the environment) is no setting and is ignored"


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        ("email-smtp.eu-west-1.amazonaws.com", "example.test:s1:/k.pem", True),
        ("email-smtp.eu-west-1.amazonaws.com", "", False),
        ("smtp.example.test", "example.test:s1:/k.pem", False),
    ],
)
def test_keys_are_of_no_use_with_a_relay_that_writes_signed_headers_anew(
    host: str, keys: str, warned: bool
) -> None:
    settings = Settings(
        smtp_host=host,
        smtp_user="a@example.test",
        kafka_brokers="k:1",
        mongodb_uri="mongodb://m/",
        dkim_keys=keys,
    )
    found = [finding.text for finding in _judge(settings) if finding.level == "warning"]
    assert [text.startswith("DKIM_KEYS is set, and SES") for text in found] == [True] * warned
