"""What of the settings nobody may see."""

from __future__ import annotations

from pydantic import SecretStr

from mailsender.queue.mongo import connection_string
from mailsender.settings.environment import Settings


def secret_values(settings: Settings) -> tuple[str, ...]:
    """Every secret that `settings` hold: passwords, keys and the passwords inside of URIs."""
    values = [getattr(settings, name) for name in type(settings).model_fields]
    found = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    for uri in (settings.mongodb_uri, settings.mongo_local):
        found += connection_string.passwords(uri)
    if settings.authenticates and settings.credentials.password:
        found.append(f"\0{settings.smtp_user}\0{settings.credentials.password}")  # RFC 4616
    if settings.config is not None:
        found += settings.config.secrets
    return tuple(value for value in found if value)
