"""What `check` says of the settings alone."""

from __future__ import annotations

from pydantic import SecretStr

from mailsender.check import _judge
from mailsender.settings import Settings


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
