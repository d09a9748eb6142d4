"""Kafka: its brokers, topics and group."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, SecretStr, field_validator

from mailsender.settings.kinds import Duration, field, listed

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}", re.ASCII)


class KafkaSettings(BaseModel):
    """How Kafka is reached, and what is read and written there."""

    kafka_brokers: str = field(..., "Brokers, `host:port`, separated by commas.", original=True)
    kafka_topic_mailsender: str = field("mts-to-mailsender", "Topic of batches.", original=True)
    kafka_topic_profile: str = field("mts-to-profile", "Topic of reports.", original=True)
    kafka_topic_dead_letter: str = field(
        "mts-to-mailsender-dead-letter", "Topic of records that cannot be decoded."
    )
    kafka_groupid: str = field(
        "mailsender",
        "Consumer group. One without offsets (it is new, or they ran out) begins at the beginning of the"
        " topic: letters there that the store does not know are sent.",
        original=True,
    )
    kafka_group_instance_id: str = field(
        "", "Stable name of this replica, for static membership.", shown="none"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = field(
        "PLAINTEXT", "How brokers are reached."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = field(
        "PLAIN", "SASL mechanism."
    )
    kafka_sasl_username: str = field("", "SASL user.")
    kafka_sasl_password: SecretStr = field(SecretStr(""), "SASL password.")
    kafka_tls_ca_file: str = field("", "PEM file of a private CA.", shown="the system's CAs")
    kafka_tls_cert_file: str = field("", "PEM file of the client's certificate.")
    kafka_tls_key_file: str = field("", "PEM file of its key.")
    kafka_session_timeout: Duration = field(
        10.0, "Time after which the group takes a dead member's partitions.", ge=6, le=3600, shown="10s"
    )
    kafka_timeout: Duration = field(10.0, "Deadline of every wait on a broker.", ge=1, le=3600, shown="10s")
    kafka_max_request_size: int = field(
        1_000_000,
        "Bytes of the largest record to publish; at most what the broker takes.",
        ge=10_000,
        le=100_000_000,
    )

    @field_validator("kafka_brokers")
    @classmethod
    def _brokers(cls, value: str) -> str:
        brokers = listed(value)
        for broker in brokers:
            host, colon, port = broker.rpartition(":")
            if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"{broker!r} is not host:port")
        if not brokers:
            raise ValueError("at least one host:port is needed")
        return ",".join(brokers)

    @field_validator("kafka_topic_mailsender", "kafka_topic_profile", "kafka_topic_dead_letter")
    @classmethod
    def _topic(cls, value: str) -> str:
        """Kafka's rule for names of topics (`org.apache.kafka.common.internals.Topic`)."""
        if not _TOPIC.fullmatch(value) or value in {".", ".."}:
            raise ValueError("a topic's name has 1 to 249 letters, digits, dots, dashes or underscores")
        return value

    @property
    def brokers(self) -> list[str]:
        """The brokers, one by one."""
        return self.kafka_brokers.split(",")


def check_topics(settings: KafkaSettings) -> None:
    """See that topics differ: a dead letter on the in-topic would be read again, and be one again, for ever.

    Raises:
        ValueError: two topics are the same.
    """
    given: dict[str, str] = {}
    for name in ("KAFKA_TOPIC_MAILSENDER", "KAFKA_TOPIC_PROFILE", "KAFKA_TOPIC_DEAD_LETTER"):
        topic = getattr(settings, name.lower())
        if topic in given:
            raise ValueError(f"{name}: is the topic of {given[topic]}; each needs one of its own")
        given[topic] = name
