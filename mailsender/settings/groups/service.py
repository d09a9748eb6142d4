"""HTTP, and the process."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import BaseModel, SecretStr

from mailsender.settings.kinds import DAY, Duration, field, listed


class ServiceSettings(BaseModel):
    """How the service is asked, where it keeps what, how it ends."""

    http_host: str = field("", "Address to listen on.", shown="0.0.0.0 with a key, else 127.0.0.1")
    http_port: int = field(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    http_metrics_port: int = field(
        0,
        "Port for `GET /metrics` alone, at the same address and without a key; 0 for none: then it is on"
        " `HTTP_PORT` only, which wants the key.",
        ge=0,
        le=65535,
    )
    http_api_key: SecretStr = field(SecretStr(""), "Value of `X-API-KEY` that callers must send.")
    http_allow_anonymous: bool = field(False, "`true` lets the service listen beyond loopback without a key.")
    http_allowed_hosts: str = field(
        "",
        "Without a key: further names by which callers may address the service, separated by commas; `*` for"
        " any.",
        shown="addresses, and names that nobody outside can have",
    )
    http_max_bytes: int = field(1_000_000, "Bytes of the largest request.", ge=1024, le=100_000_000)
    http_max_connections: int = field(
        512, "Connections at once; fewer where the process may open few files.", ge=16, le=10_000
    )
    http_timeout: Duration = field(15.0, "Time that a request may take.", ge=1, le=3600, shown="15s")
    mailsender_secrets_dir: str = field(
        "", "Directory with a file for each setting that shall not stand in the environment.", shown="none"
    )
    mailsender_config: str = field(
        "", "TOML file with further relays and routes; see [the file](configuration.md).", shown="none"
    )
    mailsender_state_dir: str = field(
        "",
        "Directory for a journal from which a restarted process knows what the one before it had sent; a"
        " local disk that outlives the process.",
        shown="none",
    )
    drain_timeout: Duration = field(30.0, "Deadline of the drain.", ge=1, le=DAY, shown="30s")
    log_level: Literal["debug", "info", "warning", "error"] = field("info", "Least level logged.")
    log_format: Literal["auto", "json", "console"] = field(
        "auto", "`auto` is `console` on a terminal, else `json`."
    )

    @property
    def allowed_hosts(self) -> list[str]:
        """Further names of the service, in lower case."""
        return [part.lower() for part in listed(self.http_allowed_hosts)]

    @property
    def bind_host(self) -> str:
        """The address to listen on: loopback when there is neither a key nor a wish."""
        if self.http_host:
            return self.http_host
        return "0.0.0.0" if self.http_api_key.get_secret_value() else "127.0.0.1"


def loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
