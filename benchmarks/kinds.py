"""What a letter's further keys cost: the same letters in the plain form and with one thing more, in turn.

A file is put into the store before the clock starts, as `PUT /blobs` does it. Templates lie in a folder; keys
that sign are made for the run.

    python -m benchmarks.kinds
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.compare import compare
from benchmarks.letters import SENDER, batches
from benchmarks.measure import Round
from benchmarks.parts import Stage
from benchmarks.peers import Peer
from benchmarks.peers.ours import measured, world
from benchmarks.run import alone
from benchmarks.table import Choice, choice
from mailsender.blobs.mongo import MongoBlobs
from mailsender.blobs.receive import receive
from mailsender.model.clock import SystemClock
from mailsender.queue.mongo.client import connect, disconnect

KB, MB = 1024, 1024 * 1024
LETTERS, ROUNDS = 20_000, 4
BATCH = 100

TEXT = "Мир и труд, и письмо из нескольких строк для всех читателей сразу.\n" * 10

TEMPLATE = (
    "<p>Здравствуйте, {{ name }}!</p>\n<p>Заказ {{ order }} на {{ amount }} уже в пути.</p>\n"
    "<p>Он придёт {{ day }} по адресу: {{ place }}.</p>\n"
) + "<p>Мир и труд, и письмо из нескольких строк для всех читателей сразу.</p>\n" * 12


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: letters with further `keys`, under `settings` that may need files in a room of the run."""

    name: str
    letters: int = LETTERS
    keys: dict[str, Any] = field(default_factory=dict)
    settings: Callable[[Path], dict[str, str]] = lambda _: {}
    file: int = 0

    def run(self, stage: Stage, letters: int) -> Round:
        with world(stage, **self.settings(stage.room("kinds"))) as here:
            keys = self.keys
            if self.file:
                ref = asyncio.run(_put(stage.mongod.uri, here.database, self.file))
                keys = {**keys, "Attachments": [{"Name": "счёт.pdf", "Ref": ref}]}
            here.publish(_with(keys, letters))
            return measured(stage, here, letters)


def _with(keys: dict[str, Any], letters: int) -> Iterator[list[dict[str, Any]]]:
    """Batches of letters with these keys; those of a template bring no body."""
    left_out = {"Body", "Subject"} if "Template" in keys else set[str]()
    for batch in batches(letters, BATCH):
        yield [{name: each[name] for name in each.keys() - left_out} | keys for each in batch]


async def _put(uri: str, database: str, size: int) -> str:
    """Store a file of `size` octets; returns its `Ref`."""

    async def blocks() -> AsyncIterator[bytes]:
        for start in range(0, size, MB):
            yield bytes(min(MB, size - start))

    client = connect(uri, timeout=10.0, app_name="bench")
    store = MongoBlobs(
        client, database=database, collection="letters", retention=3600.0, clock=SystemClock(), timeout=10.0
    )
    await store.open()
    blob = await receive(store, blocks(), limit=size)
    await disconnect(client, 10.0)
    return blob.ref


def _templates(room: Path) -> dict[str, str]:
    folder = room / "templates"
    folder.mkdir(exist_ok=True)
    (folder / "order.html").write_text(TEMPLATE, "utf-8")
    (folder / "order.subject").write_text("Заказ {{ order }}", "utf-8")
    return {"TEMPLATES_DIR": str(folder)}


def _signed(make: Callable[[], RSAPrivateKey | Ed25519PrivateKey]) -> Callable[[Path], dict[str, str]]:
    def settings(room: Path) -> dict[str, str]:
        path = room / f"{make.__name__}.pem"
        if not path.exists():
            path.write_bytes(make().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {"DKIM_KEYS": f"{SENDER.partition('@')[2]}:bench:{path}"}

    return settings


def rsa() -> RSAPrivateKey:
    """A key of 2048 bits, which all verifiers know."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def ed25519() -> Ed25519PrivateKey:
    """A key of RFC 8463."""
    return Ed25519PrivateKey.generate()


VARIABLES = {
    "name": "Анна",
    "order": 1042,
    "amount": "10 €",
    "day": "во вторник",
    "place": "Москва, Тверская, 1",
}

KINDS = (
    Kind("HTML alone"),
    Kind("text and HTML", keys={"TextBody": TEXT}),
    Kind(
        "a template with five variables",
        keys={"Template": "order", "Variables": VARIABLES},
        settings=_templates,
    ),
    Kind("signed, RSA-2048", settings=_signed(rsa)),
    Kind("signed, Ed25519", settings=_signed(ed25519)),
    Kind("a file of 100 KB", 5_000, file=100 * KB),
    Kind("a file of 2 MB", 1_000, file=2 * MB),
)


def measure(stage: Stage, scale: float = 1.0) -> Choice:
    """A row for each kind."""
    peers: list[Peer] = [*KINDS]
    rounds, _ = compare(stage, peers, ROUNDS, scale)
    return Choice("What a letter's further keys cost", rounds)


if __name__ == "__main__":
    alone(lambda stage: choice(measure(stage)))
