"""Who logs in to a relay, and by what: a password, or tokens that others grant. Values only."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

OF_PASSWORDS: Final = ("SCRAM-SHA-256", "PLAIN", "LOGIN")
OF_TOKENS: Final = ("XOAUTH2", "OAUTHBEARER")
"""The mechanisms of AUTH that there are, the best first. XOAUTH2 goes before the standard's (RFC 7628): it is
the one that Google and Microsoft describe, and Microsoft has no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """An access token in a file that something else renews: alone, or as `access_token` in a JSON object."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpoint:
    """Where access tokens are granted (RFC 6749 §3.2), and to whom.

    With a `refresh_file`, which holds a refresh token and nothing else, by that (§6); without, by the
    client's own credentials (§4.4). A new refresh token that comes with an answer is written to the file.
    `ca_file` takes the place of the system's CAs. `basic` tells the client's credentials in a header (§2.3.1)
    instead of the form's body, as few endpoints want it.
    """

    url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    refresh_file: str = ""
    scope: str = ""
    ca_file: str = ""
    basic: bool = False

    @property
    def fault(self) -> str:
        """Why it can be of no use, empty where it can."""
        scheme, host = _scheme_and_host(self.url)
        if scheme not in {"https", "http"} or not host:
            return "the token endpoint has to be a URL such as https://login.example.com/oauth2/token"
        if scheme == "http" and not _on_this_machine(host):
            return "the token endpoint has to begin with https://: secrets go there (RFC 6749 §3.2)"
        if not self.client_id:
            return "the client's id is missing, by which the token endpoint knows us"
        if not (self.client_secret or self.refresh_file):
            return "the client's secret is missing, or the file of a refresh token"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who logs in: `user`, by a `password` or by `tokens`.

    Without either nobody does: the user is only the sender then. `mechanism` is the only one of AUTH that may
    be used; without, each of those that fit may, as far as the relay offers it.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    tokens: TokenFile | TokenEndpoint | None = None
    mechanism: str = ""

    @property
    def complete(self) -> bool:
        """Whether sessions log in."""
        return bool(self.user and (self.password or self.tokens))

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Those of AUTH that may be used, the best first."""
        fitting = OF_TOKENS if self.tokens else OF_PASSWORDS
        return tuple(each for each in fitting if self.mechanism in {"", each})

    @property
    def fault(self) -> str:
        """Why they can be of no use, empty where they can. Nothing of a secret is in it."""
        if self.tokens and self.password:
            return "a password and tokens are given; only one of them can be what is told to the relay"
        if self.tokens and not self.user:
            return "tokens are given, and the user is missing, whom they are for"
        if self.complete and not self.mechanisms:
            wanted = " or ".join(OF_TOKENS if self.tokens else OF_PASSWORDS)
            return (
                f"{self.mechanism} is no mechanism for {'tokens' if self.tokens else 'a password'}: {wanted}"
            )
        return self.tokens.fault if isinstance(self.tokens, TokenEndpoint) else ""


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Both empty where that is no URL, or one with a password in it."""
    try:
        parts = urlsplit(url)
        well = parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        well = False
    return (parts.scheme, parts.hostname or "") if well else ("", "")


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
