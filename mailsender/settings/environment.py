"""All settings, read from `mailsender.settings.sources`; `mailsender.settings.groups` has what each is.

The original service's names are kept where they mean the same thing.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mailsender.model.durations import duration_of
from mailsender.settings.file.read import CONFIG, Config, read_config
from mailsender.settings.groups.codes import CodeSettings
from mailsender.settings.groups.kafka import KafkaSettings, check_topics
from mailsender.settings.groups.letters import LetterSettings
from mailsender.settings.groups.mongodb import WHERE_MONGODB_IS, MongoSettings, check_uri
from mailsender.settings.groups.relay import RelaySettings, check_credentials, check_sender
from mailsender.settings.groups.service import ServiceSettings, loopback
from mailsender.settings.groups.suppression import SuppressionSettings
from mailsender.settings.groups.templates import TemplateSettings
from mailsender.settings.kinds import is_duration
from mailsender.settings.sources import SettingsError, is_link, read, secret_files

_PREFIXES = (
    *("SMTP_", "KAFKA_", "MONGODB_", "MONGO_", "HTTP_", "LETTER_", "REPORT_", "INTAKE_", "QUEUE_", "LOG_"),
    *("DRAIN_", "DKIM_", "MAILSENDER_", "CODE_", "BLOB_", "TEMPLATES_", "SUPPRESSION_"),
)

_NEAR = 0.85
"""How alike (`difflib`) a name has to be to one of ours to be a slip: other programs have names, too."""

_NEAR_OF_OURS = 0.75
"""The same for one that is meant for us, whatever it may be: how alike the other has to be to be named."""

_OTHERS = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)"  # what Kubernetes puts beside a container for each service
    r"|\w+_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
    r"|(MONGODB_ROOT|MONGO_INITDB|KAFKA_CFG)_\w+"  # of their images
    r"|MAILSENDER_(URL|COMPILE|TEST_\w+|SECRETS_DIR)",
)


_NO_MONGODB: Final = "MONGODB_URI: is missing"


# pydantic has the fields of the last base first: that is their order in the documentation, and in errors.
class Settings(
    ServiceSettings,
    CodeSettings,
    MongoSettings,
    TemplateSettings,
    SuppressionSettings,
    LetterSettings,
    KafkaSettings,
    RelaySettings,
    BaseSettings,
):
    """Every setting, by its environment name in lower case; and what the file says that one of them names."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    _config: Config | None = PrivateAttr(None)

    @property
    def config(self) -> Config | None:
        """What the file says; None where there is none."""
        return self._config

    def read_again(self) -> Self:
        """The same settings, with the file as it is now.

        Raises:
            SettingsError: something is wrong with the file.
        """
        again = self.model_copy()
        path = self.mailsender_config
        again._config = read_config(path, smtp=bool(self.smtp_host)) if path else None  # noqa: SLF001  a copy
        return again

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let our own reader take the place of those that take a value as it stands."""
        return init_settings, _Surroundings(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _tls_by_port(cls, data: Any) -> Any:
        """Port 465 is implicit TLS by its registration (RFC 8314 §3.3).

        What Kubernetes says about a service that happens to be named `smtp` or `http` is no port of ours.
        With a file of relays there need be none beside them.
        """
        if isinstance(data, dict):
            data = {name: each for name, each in data.items() if not is_link(name, each)}
            if data.get("mailsender_config"):
                data.setdefault("smtp_host", "")
        if isinstance(data, dict) and "smtp_tls" not in data and str(data.get("smtp_port", "")) == "465":
            return {**data, "smtp_tls": "implicit"}
        return data

    @model_validator(mode="after")
    def _together(self) -> Self:
        """What can only be judged over several settings: all of it is told at once."""
        faults: list[str] = []
        for check in _TOGETHER:
            try:
                check(self)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _check_rate(settings: Settings) -> None:
    if settings.smtp_rate_limit_max_letters and settings.smtp_rate_limit_period <= 0:
        raise ValueError("SMTP_RATE_LIMIT_PERIOD: must be longer than 0 when there is a rate")


def _check_mongodb(settings: Settings) -> None:
    if not any(getattr(settings, name) for name in WHERE_MONGODB_IS):
        raise ValueError(_NO_MONGODB)
    check_uri(settings)


def _check_clear_text(settings: Settings) -> None:
    if settings.authenticates and settings.smtp_tls == "none" and not settings.smtp_auth_cleartext:
        secret = "the token" if settings.credentials.tokens else "SMTP_PASSWORD"
        raise ValueError(
            f"SMTP_TLS: is none, so {secret} would be sent in clear text;"
            " set SMTP_AUTH_CLEARTEXT=true to allow it"
        )


def _check_listening(settings: Settings) -> None:
    open_to_others = not settings.http_api_key.get_secret_value() and not loopback(settings.bind_host)
    if open_to_others and not settings.http_allow_anonymous:
        raise ValueError(
            f"HTTP_API_KEY: is missing, and HTTP_HOST={settings.bind_host} can be reached from other"
            " machines; set a key, or HTTP_ALLOW_ANONYMOUS=true"
        )


_TOGETHER: Final[Sequence[Callable[[Settings], None]]] = (
    check_topics,
    check_sender,
    check_credentials,
    _check_rate,
    _check_mongodb,
    _check_clear_text,
    _check_listening,
)


class _Surroundings(PydanticBaseSettingsSource):
    """What `mailsender.settings.sources` finds, refused where it is broken as text."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Part of the base class; not used, as all values are read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """See `PydanticBaseSettingsSource`.

        Raises:
            SettingsError: it names each value that is broken as text.
        """
        fields = self.settings_cls.model_fields
        found = read(fields)
        faults = [
            (name, _broken(text, fields[name].annotation is SecretStr))
            for name, text in found.items()
            if not is_link(name, text)
        ]
        if any(fault for _, fault in faults):
            raise SettingsError("; ".join(f"{name.upper()}: {fault}" for name, fault in faults if fault))
        return found


def _broken(text: str, secret: bool) -> str:
    """What is wrong with `text` as text, whatever it should mean; a password may look like anything."""
    kinds = {unicodedata.category(char) for char in text}
    if "Cs" in kinds:
        return "it is not UTF-8"
    if "Cc" in kinds:
        return "a control character, such as a newline or a tab, stands in it"
    if secret:
        return ""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return "the quotes around it are a part of it; leave them out (env files know no quotes)"
    if text.startswith(("tcp://", "udp://")):
        return (
            "it is a link to a Service of that name, which Kubernetes puts into the environment; set it"
            " yourself, or enableServiceLinks: false"
        )
    return ""


def load() -> Settings:
    """Read the environment, and the file that it names.

    Raises:
        SettingsError: one line that names every missing or bad value, without the value of a secret, and what
            is wrong in the file. What can only be judged over several settings is named once each of them is
            good by itself.
    """
    complaints: list[str] = []
    try:
        settings = Settings()
    except ValidationError as error:
        complaints += map(_complaint, error.errors())
    except SettingsError as error:
        complaints.append(str(error))
    else:
        return settings.read_again()
    raise SettingsError("; ".join([*complaints, *_further(complaints)]))


def _further(complaints: Sequence[str]) -> Iterator[str]:
    """What can be told beside `complaints` about some settings, for which the others were not looked at."""
    try:
        found = read([*WHERE_MONGODB_IS, "mailsender_config", "smtp_host"])
    except SettingsError:
        return  # it is among them
    if not any(name in found for name in WHERE_MONGODB_IS) and _NO_MONGODB not in "; ".join(complaints):
        yield _NO_MONGODB
    path = found.get("mailsender_config", "")
    if path and not any(each.startswith(CONFIG) for each in complaints):
        try:
            read_config(path, smtp="smtp_host" in found)
        except SettingsError as error:
            yield str(error)


@dataclass(frozen=True, slots=True)
class Slip:
    """A name that looks like a setting and is none; `nearest` may be empty. `place` says where it stands."""

    name: str
    nearest: str
    place: str


def slips(config: Config | None = None) -> list[Slip]:
    """What the environment and the directory of secrets hold that looks like a setting and is none.

    What `config` takes from there is meant.
    """
    found = [Slip(name, near, "the environment") for name, near in astray(os.environ).items()]
    directory, files = secret_files()
    keys = {part.rpartition(":")[2].strip() for part in read(["dkim_keys"]).get("dkim_keys", "").split(",")}
    names = [path.name for path in files if path.name not in keys]
    found += [Slip(name, near, f"a file in {directory}") for name, near in astray(names).items()]
    meant = {name.upper() for name in config.names} if config is not None else set()
    return [slip for slip in found if slip.name not in meant]


def astray(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that look like settings and are none, each with the nearest, or an empty text.

    What begins with `SMTP_` is meant for us; of other names only those that are nearly one of ours.
    """
    known = [name.upper() for name in Settings.model_fields]
    found = {}
    for name in sorted({name.upper() for name in names}):
        if name in known or not name.startswith(_PREFIXES) or _OTHERS.fullmatch(name):
            continue
        ours = name.startswith("SMTP_")
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR_OF_OURS if ours else _NEAR)
        if near or ours:
            found[name] = near[0] if near else ""
    return found


def _complaint(detail: Any) -> str:
    text = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return text
    name = str(detail["loc"][0]).upper()
    if detail["type"] == "missing":
        meant = "".join(f" ({slip.name} is set, in {slip.place})" for slip in slips() if slip.nearest == name)
        return f"{name}: is missing{meant}"
    bound = detail["ctx"].get("le", detail["ctx"].get("ge")) if "ctx" in detail else None
    if bound is not None and is_duration(Settings.model_fields[name.lower()]):
        return f"{name}: at {'most' if 'le' in detail['ctx'] else 'least'} {duration_of(bound)}"
    return f"{name}: {text[:1].lower()}{text[1:]}"
