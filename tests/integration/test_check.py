"""`mailsender check` as an operator runs it: a process, real parts, lines and an exit status."""

from __future__ import annotations

import os
import subprocess
import sys

from mailsender.dev.catcher import Catcher
from tests.parts import KafkaServer, MongoServer, Topics


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailsender", "check"]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def needed(kafka: KafkaServer, mongod: MongoServer, topics: Topics, catcher: Catcher) -> dict[str, str]:
    return {
        "KAFKA_BROKERS": kafka.bootstrap,
        "KAFKA_TOPIC_MAILSENDER": topics.letters,
        "KAFKA_TOPIC_PROFILE": topics.reports,
        "KAFKA_TOPIC_DEAD_LETTER": topics.dead,
        "MONGODB_URI": mongod.uri,
        "SMTP_HOST": catcher.host,
        "SMTP_PORT": str(catcher.port),
        "SMTP_TLS": "none",
        "SMTP_FROM": "robot@example.test",
    }


def test_all_is_well(kafka: KafkaServer, mongod: MongoServer, topics: Topics, catcher: Catcher) -> None:
    made = check(**needed(kafka, mongod, topics, catcher))
    assert made.returncode == 0, made.stdout + made.stderr
    levels = {line.split(":")[0].split(maxsplit=1)[1]: line.split()[0] for line in made.stdout.splitlines()}
    assert levels["kafka"] == levels["mongodb"] == "ok"
    assert levels[f"relay {catcher.host}"] == "ok"
    assert levels[f"topic {topics.letters}"] == "warning"
    assert made.stderr == ""


def test_what_is_away_is_an_error_and_no_secret_is_told(
    kafka: KafkaServer, mongod: MongoServer, topics: Topics, catcher: Catcher
) -> None:
    wrong = {
        "MONGODB_URI": "mongodb://user:s3cret@127.0.0.1:1/",
        "MONGODB_TIMEOUT": "1s",
        "SMTP_TLS": "starttls",
    }
    made = check(**{**needed(kafka, mongod, topics, catcher), **wrong})
    assert made.returncode == 1
    errors = [line for line in made.stdout.splitlines() if line.startswith("error")]
    assert len(errors) == 2, made.stdout + made.stderr
    assert "mongodb" in errors[0]
    assert "STARTTLS" in errors[1]
    assert "s3cret" not in made.stdout + made.stderr
