"""Who logs in to each relay of the file, with the secrets that stand elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from typing import Final

from mailsender.settings.file.faults import Fault
from mailsender.settings.file.kinds import SECRET
from mailsender.settings.file.lines import Path
from mailsender.settings.file.relays import OAuthTable, RelayTable
from mailsender.settings.sources import SettingsError, secret, secret_in, secret_path
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile
from mailsender.smtp.hosts import is_host

NO_HOST: Final = "a host's name or address alone is needed, such as smtp.example.com"

_NAMED: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def names_in(relays: Collection[RelayTable]) -> set[str]:
    """The names of the environment, or of files of secrets, that relays take values from."""
    texts = [text for each in relays for text in (each.host, each.user, each.password)]
    files = {each.password_file for each in relays}
    for oauth in filter(None, (each.oauth for each in relays)):
        texts += [oauth.client_id, oauth.client_secret]
        files |= {oauth.token_file, oauth.client_secret_file, oauth.refresh_file}
    return files | {found[1] for text in texts for found in _NAMED.finditer(text)}


def host_of(relay: RelayTable, path: Path, faults: list[Fault]) -> str:
    """The relay's host, filled in; what is wrong is added to `faults`, also of the name that it is given."""
    before, reader = len(faults), _Reader(path, faults)
    host = reader.filled("host", relay.host)
    if len(faults) == before and not is_host(host):
        reader.tell("host", f"{NO_HOST}; its port is the key port")
    if relay.helo_name and not is_host(relay.helo_name):
        reader.tell("helo_name", NO_HOST)
    return host


def credentials_of(relay: RelayTable, path: Path, faults: list[Fault]) -> Credentials:
    """Who logs in to a relay; what is wrong is added to `faults`, without a word of a secret."""
    before, reader = len(faults), _Reader(path, faults)
    found = Credentials(
        user=reader.filled("user", relay.user),
        password=reader.secret("password", relay.password, relay.password_file),
        tokens=None if relay.oauth is None else _tokens(relay.oauth, _Reader((*path, "oauth"), faults)),
        mechanism="" if relay.auth == "auto" else relay.auth.upper(),
    )
    if len(faults) > before:
        return found
    if found.fault:
        reader.tell("auth" if found.mechanism and not found.mechanisms else "oauth", found.fault)
    elif found.password and not found.user:
        reader.tell("user", "is missing, whom the password is for")
    return found


def _tokens(oauth: OAuthTable, reader: _Reader) -> TokenFile | TokenEndpoint:
    if oauth.token_file:
        if oauth.token_url:
            reader.tell("token_url", "token_file is there, too; only one of them can be")
        return TokenFile(path=reader.placed("token_file", oauth.token_file))
    return TokenEndpoint(
        url=oauth.token_url,
        client_id=reader.filled("client_id", oauth.client_id),
        client_secret=reader.secret("client_secret", oauth.client_secret, oauth.client_secret_file),
        refresh_file=reader.placed("refresh_file", oauth.refresh_file),
        scope=oauth.scope,
        ca_file=oauth.ca_file,
        basic=oauth.basic,
    )


class _Reader:
    """Reads what the keys of one table name; what cannot be read is told under the key."""

    def __init__(self, path: Path, faults: list[Fault]) -> None:
        self._path = path
        self._faults = faults

    def tell(self, key: str, text: str) -> None:
        """Something is wrong with the value of a key."""
        self._faults.append(Fault((*self._path, key), text))

    def filled(self, key: str, text: str) -> str:
        """`text` with what ``${NAME}`` stands for."""
        return self._read(key, lambda: _NAMED.sub(lambda found: secret(found[1]), text))

    def secret(self, key: str, text: str, file: str) -> str:
        """What is filled in, or what its file holds."""
        if text and file:
            self.tell(f"{key}_file", f"{key} is there, too; only one of them can be")
        return self._read(f"{key}_file", lambda: secret_in(file, SECRET)) if file else self.filled(key, text)

    def placed(self, key: str, name: str) -> str:
        """The whole path of a file."""
        return self._read(key, lambda: str(secret_path(name))) if name else ""

    def _read(self, key: str, read: Callable[[], str]) -> str:
        try:
            found = read()
        except SettingsError as error:
            self.tell(key, str(error))
            return ""
        if any(unicodedata.category(char) in {"Cc", "Cs"} for char in found):
            self.tell(key, "a control character stands in what it names")
            return ""
        return found
