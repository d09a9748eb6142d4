"""TLS as a client: whose certificates are trusted, by files that may be replaced while we run."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

_Stamp: TypeAlias = tuple[int, int, int] | None


def client_context(ca_file: str = "", cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later (RFC 8996) that verifies certificate and name; without `ca_file` by the system's CAs.

    From Python 3.13 on chains are checked strictly. Who names a private CA trusts that one, and many firms'
    lack what strictness asks of a CA (a critical mark, a key identifier) and no attacker could bring; the
    signatures, names and dates are checked as ever. So the strict mode is left to public CAs.

    Raises:
        OSError: a file cannot be read, is no PEM, or its key is under a password.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if cert_file:
        # Without an answer the library would ask for a password on the terminal, and wait.
        context.load_cert_chain(cert_file, key_file or None, password=lambda: "")
    return context


class Renewed:
    """A context that is made again when its CA's file has changed, and after `forget`."""

    def __init__(self, make: Callable[[], ssl.SSLContext], ca_file: str) -> None:
        self._make: Final = make
        self._ca_file: Final = ca_file
        self._held: tuple[_Stamp, ssl.SSLContext] | None = None

    def get(self) -> ssl.SSLContext:
        """The context; it reads files, so it belongs into a thread.

        While a file is being replaced, what it held before counts.

        Raises:
            OSError: the file cannot be used, and never could.
        """
        held, stamp = self._held, _stamp(self._ca_file)
        if held is None or held[0] != stamp:
            try:
                held = (stamp, self._make())
            except OSError:
                if held is None:
                    raise
            else:
                self._held = held
        return held[1]

    def forget(self) -> None:
        """Read the CAs again before the next use, as a certificate was not to be trusted by them."""
        self._held = None


def _stamp(path: str) -> _Stamp:
    if not path:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
