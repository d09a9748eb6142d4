"""Where the keys lie that sign, as `DKIM_KEYS` says; `mailsender.settings.signing` reads what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class KeyFile(NamedTuple):
    """One entry: the domain and the selector of a key, and its file, as they were written."""

    domain: str
    selector: str
    file: str

    @property
    def name(self) -> str:
        """What tells it from the others, and holds nothing of the key whatever was written for the file."""
        return f"{self.domain}:{self.selector}"


def key_files(text: str) -> tuple[KeyFile, ...]:
    """The entries of a list such as ``example.com:s1:/run/secrets/s1.pem, example.com:s2:s2.pem``.

    Raises:
        ValueError: an entry is none. The message does not repeat it: somebody may have put the key itself
            there.
    """
    entries = [part.strip() for part in text.split(",") if part.strip()]
    found = []
    for number, entry in enumerate(entries, 1):
        parts = [part.strip() for part in entry.split(":", 2)]
        if len(parts) < 3 or not all(parts):
            raise ValueError(
                f"entry {number} of {len(entries)} is not domain:selector:file; a file is needed, not the key"
            )
        each = KeyFile(*parts)
        if not (Path(each.file).is_absolute() or Path(each.file).name == each.file):
            raise ValueError(
                f"{each.name} needs a whole path, or the bare name of a file in MAILSENDER_SECRETS_DIR"
            )
        found.append(each)
    return tuple(found)
