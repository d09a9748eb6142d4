"""TLS with a private CA, and the refusal of wrong certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.parts import Certificates, KafkaServer, MongoServer, Topics, running, wait_until
from lab.world import World, batches, subjects
from mailsender.dev.catcher import Catcher


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
@pytest.mark.parametrize("which", ["good", "wrong name", "untrusted"])
def test_certificates(
    tmp_path: Path,
    kafka: KafkaServer,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    certificates: Certificates,
    mode: str,
    which: str,
) -> None:
    cert, key = {
        "good": (certificates.cert, certificates.key),
        "wrong name": (certificates.wrong_name_cert, certificates.wrong_name_key),
        "untrusted": (certificates.untrusted_cert, certificates.untrusted_key),
    }[which]
    relay = Catcher(tmp_path / "tls", tls=mode, cert=cert, key=key, auth="user:secret")
    with running(relay):
        world = World(tmp_path, kafka.bootstrap, mongod.uri, database, topics, relay.port)
        world.create_topics()
        world.settings = {
            "SMTP_TLS": mode,
            "SMTP_TLS_CA_FILE": str(certificates.ca),
            "SMTP_USER": "user",
            "SMTP_PASSWORD": "secret",
        }
        try:
            service = world.replica()
            service.start()
            world.publish(batches(5))
            if which == "good":
                assert len(subjects(relay.wait_for(5))) == 5
                world.wait_reports(5)
            else:
                wait_until(lambda: service.events("relay_away"), "a word about the relay")
                (event,) = service.events("relay_away")
                assert "certificate" in event["error"]
                assert service.get("/readyz").status == 503
                assert relay.messages() == []
        finally:
            world.close()
