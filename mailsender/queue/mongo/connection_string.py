"""What can be told from the text of MongoDB's connection string, before any server is asked.

A character of the password that is not percent-encoded moves the border between password and host. The rest
of the password then is the name of a host, which is looked up in the clear, and logged.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

SCHEMES: Final = ("mongodb://", "mongodb+srv://")

_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PORT = re.compile("[0-9]{1,5}", re.ASCII)
_NO_HOST = re.compile(r"""[\s"#<>\\^`{|}]""")

ENCODE: Final = (
    "the user and the password have to be percent-encoded (@ as %40, : as %3A, / as %2F, ? as %3F, # as %23,"
    " % as %25), and so has an @ in an option"
)


def fault(uri: str) -> str:
    """What is wrong with `uri`, without a piece of it, as that may be one of a password; else nothing."""
    scheme = next((each for each in SCHEMES if uri.startswith(each)), "")
    if not scheme:
        return "it has to begin with mongodb:// or mongodb+srv://"
    rest = uri.removeprefix(scheme)
    authority = _authority(rest)
    if rest.count("@") > 1 or ("@" in rest and "@" not in authority):
        return f"it holds an @ too many, or one behind the first / or ?: {ENCODE}"
    userinfo, _, hosts = authority.rpartition("@")
    if userinfo.count(":") > 1 or _LONE_PERCENT.search(userinfo):
        return f"it holds a : or a % too many before the @: {ENCODE}"
    if not all(map(_is_host, hosts.split(","))):
        return f"what stands where hosts should is no host:port; {ENCODE}"
    return ""


def passwords(uri: str) -> list[str]:
    """The password in `uri` as it stands there, and as it is meant."""
    userinfo, at, _ = _authority(uri.partition("://")[2]).rpartition("@")
    password = userinfo.partition(":")[2] if at else ""
    return list(dict.fromkeys([password, unquote_plus(password)])) if password else []


def files(uri: str) -> list[str]:
    """The options that name files, as ``option=path``."""
    options = (option.partition("=") for option in re.split("[&;]", uri.partition("?")[2]))
    return [
        f"{name}={unquote_plus(value)}"
        for name, _, value in options
        if name.lower().endswith("file") and name.lower().startswith("tls")
    ]


def _authority(rest: str) -> str:
    return rest.partition("/")[0].partition("?")[0]


def _is_host(text: str) -> bool:
    """Whether `text` is a host, with a port or without: a name, an address in brackets, an encoded path."""
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        return bool(inside and bracket) and (not port or (port[0] == ":" and _is_port(port[1:])))
    host, colon, port = text.partition(":")
    return bool(host) and not _NO_HOST.search(host) and (not colon or _is_port(port))


def _is_port(text: str) -> bool:
    return bool(_PORT.fullmatch(text)) and 0 < int(text) < 65536
