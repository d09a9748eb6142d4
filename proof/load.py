"""Letters to publish, and a thread that keeps the in-topic filled."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable

from confluent_kafka import KafkaError, Producer

from proof.history import Published

DOMAIN = "to.example.test"
BATCHES = (1, 2, 5, 10, 20)
BODY = "<p>Text of the letter. " + "Слово и дело. " * 20 + "</p>"

NOBODY = {"phase": "RCPT", "match": "nobody", "do": "reply", "text": "550 5.1.1 No such user"}
UNWANTED = {"phase": "DOT", "match": "unwanted", "do": "reply", "text": "554 5.6.0 Not this one"}
RULES = [NOBODY, UNWANTED]
"""What the relay refuses for good in every experiment, so that errors are among what is told."""


def letter(mark: str, addresses: tuple[str, ...]) -> dict[str, object]:
    """One element of a batch."""
    return {"Subject": f"Letter [{mark}]", "Body": BODY, "Addresses": list(addresses), "Token": mark}


def may_fail(mark: str, addresses: tuple[str, ...]) -> frozenset[str]:
    """Whom the relay refuses by these rules."""
    whole = UNWANTED["match"] in mark
    return frozenset(each for each in addresses if whole or each.startswith(NOBODY["match"]))


def _json(batch: list[dict[str, object]]) -> bytes:
    try:
        return json.dumps(batch, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which is legal JSON only as an escape
        return json.dumps(batch).encode()


class Publisher:
    """Publishes letters of every sort, and remembers each before it is published."""

    def __init__(self, bootstrap: str, topic: str, name: str, chance: random.Random) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._topic = topic
        self._name = name
        self._chance = chance
        self._failed: list[KafkaError] = []
        self.published: list[Published] = []
        self.made = 0
        self.unwanted = 0  # of these, letters that the relay refuses for good

    def publish(self, count: int) -> None:
        """So many letters in batches of all sizes; comes back when the broker has them."""
        left = count
        while left:
            size = min(left, self._chance.choice(BATCHES))
            self.send([self.letter() for _ in range(size)])
            left -= size
        self.flush()

    def send(self, batch: list[dict[str, object]]) -> None:
        """One batch, without a wait."""
        self.raw(self.encoded(batch))

    def encoded(self, batch: list[dict[str, object]]) -> bytes:
        """The value of its record."""
        return _json(batch)

    def raw(self, value: bytes) -> None:
        """One record, whatever it holds."""
        key = b"key %d" % self._chance.randrange(1000)
        self._producer.produce(self._topic, value=value, key=key, on_delivery=self._note)
        self._producer.poll(0)

    def flush(self, timeout: float = 120.0) -> None:
        """Wait for the broker."""
        left = self._producer.flush(timeout)
        if left or self._failed:
            raise RuntimeError(f"{left} records were not published, {len(self._failed)} failed")

    def letter(self) -> dict[str, object]:
        """A letter of any sort, remembered as published."""
        number, sort = self.made, self._chance.random()
        self.made += 1
        mark = f"{self._name}.{number}"
        addresses: tuple[str, ...] = (f"one{number}@{DOMAIN}",)
        self.unwanted += sort < 0.04
        if sort < 0.02:
            mark = f"{mark}.unwanted"
        elif sort < 0.04:
            addresses = (f"nobody{number}@{DOMAIN}",)
        elif sort < 0.10:
            addresses = (f"one{number}@{DOMAIN}", f"nobody{number}@{DOMAIN}", f"two{number}@{DOMAIN}")
        elif sort < 0.30:
            addresses = (f"one{number}@{DOMAIN}", f"two{number}@{DOMAIN}")
        self.published.append(Published(mark=mark, addresses=addresses, may_fail=may_fail(mark, addresses)))
        return letter(mark, addresses)

    def _note(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error)


class Filler:
    """A thread that publishes on, so that `backlog` letters wait at any time.

    `done` counts what the relay has taken over.
    """

    def __init__(self, publisher: Publisher, done: Callable[[], int], backlog: int) -> None:
        self._publisher = publisher
        self._done = done
        self._backlog = backlog
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="filler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Publish no more.

        Raises:
            RuntimeError: It had failed before.
        """
        self._over.set()
        self._thread.join(150)
        self.check()

    def check(self) -> None:
        """See that it still works: without new letters an experiment goes on and shows nothing.

        Raises:
            RuntimeError: It does not.
        """
        if self._error is not None:
            raise RuntimeError(f"the filler failed: {self._error!r}") from self._error

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                # What is refused is never among what is done, and would seem to wait for ever.
                wanted = len(self._publisher.published) - self._publisher.unwanted
                missing = self._done() + self._backlog - wanted
                if missing > 0:
                    self._publisher.publish(missing)
                # A steady trickle, so that there is intake at every instant of a life.
                self._over.wait(0.02)
        except Exception as error:  # noqa: BLE001  told by `stop`
            self._error = error
