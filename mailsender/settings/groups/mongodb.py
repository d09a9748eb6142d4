"""MongoDB."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import quote_plus

from pydantic import BaseModel, SecretStr, field_validator

from mailsender.queue.mongo import connection_string
from mailsender.settings.kinds import DAY, MOST, Duration, field

MEMORY_URI = "memory:"
"""`MONGODB_URI` for a queue that lives and dies with the process; for trying things out."""

WHERE_MONGODB_IS: Final = ("mongodb_uri", "mongo_local", "mongo_nodeport_svc_service_host")
"""Settings of which one says where it is; the first that is set does."""


class MongoSettings(BaseModel):
    """How MongoDB is reached, and for how long it keeps what."""

    mongodb_uri: str = field(
        "",
        "Connection string; `memory:` keeps the queue in memory, for trials.",
        shown="from the names below",
        repr=False,  # it may hold a password
    )
    mongo_local: str = field(
        "", "The original's name for a full connection string.", original=True, repr=False
    )
    mongo_nodeport_svc_service_host: str = field("", "Host, without a URI.", original=True)
    mongo_nodeport_svc_service_port: int = field(27017, "Port, without a URI.", original=True, ge=1, le=65535)
    mongodb_username: str = field(
        "",
        "User, without a URI; of the database `admin`. For one of another database take `MONGODB_URI` with"
        " `authSource`.",
        original=True,
    )
    mongodb_password: SecretStr = field(SecretStr(""), "Password, without a URI.", original=True)
    mongodb_base_name: str = field("mts", "Database.", original=True)
    mongodb_collection: str = field("letters", "Collection of letters.", original=True)
    mongodb_retention: Duration = field(
        30 * 86400.0, "Time for which reported letters are remembered.", ge=60, shown="30d"
    )
    mongodb_body_retention: Duration = field(
        0.0,
        "Time after which a reported letter loses its `Body`, texts and attachments; the rest is remembered."
        " 0: they stay as long as the letter.",
        shown="0: as long as the letter",
    )
    mongodb_lease: Duration = field(
        60.0,
        "Time after which a replica that is silent counts as dead.",
        ge=2,
        le=DAY,
        shown="60s",
    )
    mongodb_driver: Literal["motor", "pymongo"] = field(
        "motor",
        "Client library: `pymongo` is PyMongo's own asyncio client; Motor's upkeep ended in May 2026.",
    )
    mongodb_timeout: Duration = field(10.0, "Deadline of every operation.", ge=0.5, le=3600, shown="10s")
    queue_max_letters: int = field(
        1_000_000, "Waiting letters above which `POST /post` answers 503; 0 = no limit.", ge=0, le=MOST
    )

    @field_validator("mongodb_base_name")
    @classmethod
    def _database(cls, value: str) -> str:
        """MongoDB's rule for names of databases, on any system."""
        _check_name(value, forbidden='/\\. "$*<>:|?', longest=63)
        return value

    @field_validator("mongodb_collection")
    @classmethod
    def _collection(cls, value: str) -> str:
        """MongoDB's rule for names of collections; 255 bytes hold the database and our endings, too."""
        _check_name(value, forbidden="$", longest=180)
        if value.startswith((".", "system.")) or value.endswith(".") or ".." in value:
            raise ValueError(
                "it may not begin with `system.`, nor with a dot, end with one or hold two in a row"
            )
        return value

    @property
    def body_retention(self) -> float | None:
        """Seconds for which bodies of reported letters are kept, None for as long as the letters."""
        return self.mongodb_body_retention or None

    @property
    def mongo_uri(self) -> str:
        """The connection string: ours, the original's, or put together (and escaped) from its parts."""
        if self.mongodb_uri or self.mongo_local:
            return self.mongodb_uri or self.mongo_local
        password = self.mongodb_password.get_secret_value()
        user = f"{quote_plus(self.mongodb_username)}:{quote_plus(password)}@" if self.mongodb_username else ""
        return (
            f"mongodb://{user}{self.mongo_nodeport_svc_service_host}:{self.mongo_nodeport_svc_service_port}/"
        )

    @property
    def mongo_hosts(self) -> list[str]:
        """The hosts of the connection string, without user and options, in one order."""
        hosts = self.mongo_uri.partition("://")[2].partition("/")[0].partition("?")[0]
        return sorted(host.lower() for host in hosts.rpartition("@")[2].split(","))

    @property
    def in_memory(self) -> bool:
        """Whether the queue lives in this process only."""
        return self.mongo_uri.startswith(MEMORY_URI)


def check_uri(settings: MongoSettings) -> None:
    """See that the connection string can be one.

    Raises:
        ValueError: it cannot; the message begins with the setting that it came from.
    """
    name = next(name for name in WHERE_MONGODB_IS if getattr(settings, name))
    wrong = "" if settings.in_memory else connection_string.fault(settings.mongo_uri)
    if wrong:
        raise ValueError(f"{name.upper()}: {wrong}")


def _check_name(value: str, *, forbidden: str, longest: int) -> None:
    found = next((char for char in value if char in forbidden), None)
    if found is not None:
        raise ValueError(f"{'a space' if found == ' ' else repr(found)} cannot stand in it")
    if not 0 < len(value.encode()) <= longest:
        raise ValueError(f"it has to have 1 to {longest} bytes")
