"""The only reader of the environment, and of the files that hold settings beside it.

Without a library, since commands that talk to a running service look here, too, and a health check runs every
few seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

SECRETS_DIR = "MAILSENDER_SECRETS_DIR"
"""Names a directory whose files hold settings, each under its setting's name, as Docker and Kubernetes mount
secrets. The environment goes before it."""

_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a service answers that listens on all addresses."""

_LINK = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(Exception):
    """Some settings are missing or wrong; the text is one line that names each of them."""

    def __init__(self, text: str) -> None:
        """Note what is wrong; what cannot be printed, as a value may hold it, becomes a space."""
        super().__init__(" ".join("".join(char if char.isprintable() else " " for char in text).split()))


def read(names: Iterable[str]) -> dict[str, str]:
    """The settings that have a value, by their names in lower case: of the environment, else of a file.

    White space around a value, and the byte order mark of some editors, are no part of it: a secret made with
    `echo` ends with a newline. What is empty then counts as absent.

    Raises:
        SettingsError: the directory of files, or one of them, cannot be read.
    """
    wanted = set(names)
    found = {name: text for name, text in _environment().items() if text and name in wanted}
    for path in secret_files()[1]:
        name = path.name.lower()
        if name in wanted and name not in found and (text := _content(path)):
            found[name] = text
    return found


def secret_files() -> tuple[str, list[Path]]:
    """The directory that `SECRETS_DIR` names, and what lies in it; both empty where there is none.

    Raises:
        SettingsError: it is no directory, or it cannot be read.
    """
    directory = _environment().get(SECRETS_DIR.lower(), "")
    try:
        return directory, sorted(Path(directory).iterdir()) if directory else []
    except NotADirectoryError:
        raise SettingsError(f"{SECRETS_DIR}: {directory} is no directory") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{SECRETS_DIR}: {directory} cannot be read: {_why(error)}") from None


def secret(name: str) -> str:
    """What `${NAME}` stands for: of the environment, else of the file of that name.

    Raises:
        SettingsError: it is nowhere, it is empty, or it cannot be read.
    """
    found = read([name.lower()]).get(name.lower(), "")
    if not found:
        raise SettingsError(f"{name} is neither in the environment nor a file in {SECRETS_DIR}")
    return found


def secret_path(name: str) -> Path:
    """Where a file lies that is named by its whole path, or by its name in the directory of secrets.

    Raises:
        SettingsError: it is neither. The text does not repeat it: somebody may have put the secret itself
            there.
    """
    if Path(name).is_absolute():
        return Path(name)
    if Path(name).name != name:
        raise SettingsError(f"a whole path, or the bare name of a file in {SECRETS_DIR}, is needed")
    directory = _environment().get(SECRETS_DIR.lower(), "")
    if not directory:
        raise SettingsError(f"a file is named without its path, and {SECRETS_DIR} is not set")
    return Path(directory, name)


def secret_in(name: str, most: int) -> str:
    """What such a file holds, at most `most` bytes, without the white space around it.

    Raises:
        SettingsError: it cannot be read, it is empty or longer, or it is no file.
    """
    path = secret_path(name)
    # A name without a path may be the secret itself.
    shown = f"the file {path}" if Path(name).is_absolute() else f"the file in {path.parent}"
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise SettingsError(f"{shown} is no file")
        with path.open("rb") as file:
            octets = file.read(most + 1)
        text = _bare(octets.decode())
    except UnicodeDecodeError:
        raise SettingsError(f"{shown} is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{shown} cannot be read: {_why(error)}") from None
    if not text or len(octets) > most:
        raise SettingsError(f"{shown} is {'empty' if not text else f'longer than {most} bytes'}")
    return text


def place() -> tuple[str, int]:
    """Where the service that has these settings answers on this machine: host and port.

    Raises:
        SettingsError: a setting cannot be read, or HTTP_PORT is no port.
    """
    found = read(("http_host", "http_port"))
    port = found.get("http_port", "")
    if not port or is_link("http_port", port):
        port = "8000"
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingsError(f"HTTP_PORT: a number from 0 to 65535 is needed, not {port}")
    host = found.get("http_host", "")
    return _EVERYWHERE.get(host, host), int(port)


def is_link(name: str, value: object) -> bool:
    """Whether a port is what Kubernetes puts into the environment for a Service of that name."""
    return name in {"smtp_port", "http_port"} and isinstance(value, str) and bool(_LINK.match(value))


def _environment() -> dict[str, str]:
    return {name.lower(): _bare(text) for name, text in os.environ.items()}


def _content(path: Path) -> str:
    try:
        return _bare(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        text = f"{path.name.upper()}: its file {path} cannot be read: {_why(error)}"
        raise SettingsError(text) from None


def _bare(text: str) -> str:
    return text.strip().removeprefix("\ufeff").strip()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
