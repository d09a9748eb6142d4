"""The keys that sign, read from the files that `DKIM_KEYS` names. No word of a fault is of their content."""

from __future__ import annotations

from pathlib import Path

from mailsender.message.dkim import MAX_KEY_FILE, BadKey, SigningKeys, load_key
from mailsender.model.errors import Rejected
from mailsender.settings.environment import Settings
from mailsender.settings.key_files import KeyFile, key_files


def signing_keys(settings: Settings) -> SigningKeys | None:
    """All keys; None where there are none, and nothing is signed.

    Raises:
        Rejected: one line that names each key that cannot be used, and says why and what to do.
    """
    keys, faults = [], []
    for each in key_files(settings.dkim_keys):
        try:
            data = _content(each, settings.mailsender_secrets_dir)
            keys.append(load_key(data, domain=each.domain, selector=each.selector))
        except BadKey as error:
            faults.append(f"{each.name}: {error}")
    if not faults:
        try:
            return SigningKeys(keys) if keys else None
        except BadKey as error:
            faults.append(str(error))
    raise Rejected(f"DKIM_KEYS: {'; '.join(faults)}")


def _content(key: KeyFile, secrets: str) -> bytes:
    """What its file holds, up to more than a key can have.

    Raises:
        BadKey: it cannot be read. A path is named only if it is a whole one: else it may be a key.
    """
    whole = Path(key.file).is_absolute()
    if not whole and not secrets:
        raise BadKey(
            "its file is named without a path, and MAILSENDER_SECRETS_DIR is not set; set it, or write the"
            " whole path"
        )
    path = Path(secrets, key.file)
    shown = f"its file {path}" if whole else f"its file in {secrets}"
    try:
        special = path.exists() and not path.is_file()  # a pipe would be waited for
        octets = b"" if special else _beginning(path)
    except FileNotFoundError:
        raise BadKey(f"{shown} is not there; name that of the private key") from None
    except PermissionError:
        raise BadKey(f"{shown} may not be read; let the user of the service read it") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise BadKey(f"{shown} cannot be read: {why}") from None
    if special:
        raise BadKey(f"{shown} is no file; name that of the private key")
    return octets


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_KEY_FILE + 1)
