"""Apache Kafka behind TLS, logins and client certificates, with an open door for the tests' own clients."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from lab.parts import Certificates
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.process import LOOPBACK, free_port

USER, PASSWORD = "mailsender", "s3cret-of-kafka"

_SCRAM = {
    "SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512,
}

A = TypeVar("A", AclBinding, AclBindingFilter)

# In a file of properties the last word about a name stands.
_GUARDED = r"""
listeners={plain},{controller},SASLTLS://{host}:{sasl_ssl},SASL://{host}:{sasl},TLS://{host}:{ssl}
advertised.listeners={plain},SASLTLS://{host}:{sasl_ssl},SASL://{host}:{sasl},TLS://{host}:{ssl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
  SASLTLS:SASL_SSL,SASL:SASL_PLAINTEXT,TLS:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.tls.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""
_LOGINS = r"""
listener.name.{listener}.plain.sasl.jaas.config={security}.plain.PlainLoginModule required \
  user_{user}="{password}";
listener.name.{listener}.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.{listener}.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;
"""


class GuardedKafka(KafkaBroker):
    """A broker whose ports want different things of a client; `bootstrap` wants nothing, as ever.

    `sasl_ssl` wants TLS and a login, `sasl` a login, `ssl` TLS and a certificate of the tests' CA. Everybody
    has all rights to whatever is not kept for others.
    """

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        super().__init__(directory)
        self.sasl_ssl, self.sasl, self.ssl = free_port(), free_port(), free_port()
        self._certificates = certificates

    def start(self) -> None:
        """Start it, and make the user known for SCRAM; PLAIN knows it from the settings."""
        super().start()
        users = [
            UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            for mechanism in _SCRAM.values()
        ]
        admin = self._admin()
        for user in users:
            admin.alter_user_scram_credentials([user])[USER].result(20)

    def keep_for_others(self, kind: ResourceType, name: str) -> None:
        """Take all rights to a topic or a group from `USER`."""
        admin = self._admin()
        for done in admin.create_acls([_others(AclBinding, kind, name)]).values():
            done.result(20)

    def keep_no_more(self, kind: ResourceType, name: str) -> None:
        """Give them back."""
        admin = self._admin()
        for done in admin.delete_acls([_others(AclBindingFilter, kind, name)]).values():
            done.result(20)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _write_configuration(self) -> Path:
        properties = super()._write_configuration()
        known = dict(line.split("=", 1) for line in properties.read_text("utf-8").splitlines() if "=" in line)
        plain, controller = known["listeners"].split(",")
        text = _GUARDED.format(
            plain=plain,
            controller=controller,
            host=LOOPBACK,
            sasl_ssl=self.sasl_ssl,
            sasl=self.sasl,
            ssl=self.ssl,
            keystore=self._keystore(),
            ca=self._certificates.ca,
        )
        for listener in ("sasltls", "sasl"):
            security = "org.apache.kafka.common.security"
            text += _LOGINS.format(listener=listener, security=security, user=USER, password=PASSWORD)
        with properties.open("a", encoding="utf-8") as file:
            file.write(text)
        return properties

    def _keystore(self) -> Path:
        """The broker's key and certificate in one file; Java reads a key in PKCS #8 only."""
        key = load_pem_private_key(self._certificates.key.read_bytes(), password=None)
        raw = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        store = self.directory / "keystore.pem"
        store.write_bytes(raw + self._certificates.cert.read_bytes())
        return store


def _others(make: type[A], kind: ResourceType, name: str) -> A:
    """The one entry of a resource's list, which lets somebody else in and so nobody but them."""
    literal, everything = ResourcePatternType.LITERAL, AclOperation.ALL
    return make(kind, name, literal, "User:somebody-else", "*", everything, AclPermissionType.ALLOW)
