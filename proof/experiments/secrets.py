"""A canary in every password, key and body: it may be in the topics and the collection, and nowhere else."""

from __future__ import annotations

import json
import time
import urllib.parse
from pathlib import Path

from pymongo.errors import OperationFailure

from lab.world import Replica
from proof.checker import check
from proof.history import Allowed, Published
from proof.load import DOMAIN, may_fail
from proof.plan import trouble
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

NAMES = ("smtp", "http", "mongodb", "body")
CANARIES = {name: f"canary-{name}-5ab1e" for name in NAMES}
PATHS = ("/", "/healthz", "/readyz", "/status", "/letters/" + "0" * 24, "/openapi.json", "/docs", "/nothing")
SHORT = {f"SMTP_TIMEOUT_{name}": "2s" for name in ("CONNECT", "GREETING", "COMMAND", "DATA", "BLOCK", "DOT")}


def canary(stage: Stage, seed: int) -> Row:
    """The service with canaries in debug mode, through good and bad times."""
    began = time.monotonic()
    plan = {**trouble(seed, 0.01), "delay": {}, "offers": {"auth": True}}
    with run(stage, "secrets", seed, plan=plan, settings=SHORT) as world:
        service = world.world.replica(**_settings(world))
        heard: list[bytes] = []
        service.start()
        service.child.until(lambda: service.get("/healthz").status == 200, 30)
        _publish(world)
        _ask(service, heard)
        world.wait_told(60, 60)
        stage.mongod.freeze()
        _ask(service, heard)
        stage.mongod.thaw()
        _publish(world)
        world.wait_done(60)
        _ask(service, heard)
        letter = next(iter(world.history().stored)).letter
        heard.append(service.get(f"/letters/{letter}").body)
        service.terminate()
        if service.wait_exit() != 0:
            world.fault(f"ended with {service.child.returncode}")
        # A start that fails, too: it has all the settings in hand and something to complain of.
        for wrong in ({"SMTP_PORT": "x"}, {"MONGODB_LEASE": "never"}, {"SMTP_TLS": "perhaps"}):
            failing = world.world.replica(**_settings(world), **wrong)
            failing.start()
            failing.wait_exit(20)
        looked = _look(world, heard)
        poison = tuple(record.value() or b"" for record in world.world.records(world.topics.dead))
        verdict = check(world.history(poison=poison), Allowed(duplicates=None))
    return row(
        "canaries as passwords, keys, bodies",
        seed,
        len(CANARIES),
        verdict,
        notes=f"{looked:,} octets of logs, pages and headers, log level debug",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="secrets --seed {seed}"',
    )


def _settings(world: Run) -> dict[str, str]:
    with world.stage.mongod.client() as client:
        try:
            client.admin.command("createUser", "proof", pwd=CANARIES["mongodb"], roles=["root"])
        except OperationFailure as error:
            if error.code != 51003:  # it is there already
                raise
    password = urllib.parse.quote(CANARIES["mongodb"])
    uri = world.world.mongo_uri.replace("mongodb://", f"mongodb://proof:{password}@") + "&authSource=admin"
    return {
        "LOG_LEVEL": "debug",
        "MONGODB_TIMEOUT": "1s",
        "SMTP_USER": "user@example.test",
        "SMTP_PASSWORD": CANARIES["smtp"],
        "SMTP_AUTH_CLEARTEXT": "true",
        "HTTP_API_KEY": CANARIES["http"],
        "MONGODB_URI": uri,
    }


def _publish(world: Run) -> None:
    """Good letters, bad ones, and records that are none, all with the canary in them."""
    body = CANARIES["body"]
    batch: list[dict[str, object]] = []
    wrongs: list[dict[str, object]] = [{"Body": [body]}, {"Body": body + "\ud800"}, {"Addresses": [5]}]
    for number in range(60):
        mark = f"{world.publisher_name}.{len(world.publisher.published)}"
        addresses = (f"one{number}@{DOMAIN}", f"nobody{number}@{DOMAIN}")[number % 2 :]
        world.publisher.published.append(
            Published(mark=mark, addresses=addresses, may_fail=may_fail(mark, addresses))
        )
        batch.append({"Subject": f"[{mark}]", "Body": body, "Addresses": list(addresses), "Token": mark})
    for wrong in wrongs:
        mark = f"{world.publisher_name}.{len(world.publisher.published)}"
        world.publisher.published.append(Published(mark=mark, addresses=()))
        batch.append({"Subject": "x", "Body": body, "Addresses": ["a@b.c"], **wrong, "Token": mark})
    world.publisher.send(batch)
    for value in (f'[{{"Body":"{body}"', f'{{"Body":"{body}"}}', f'["{body}"]'):
        world.publisher.raw(value.encode())
    world.publisher.flush()


def _ask(service: Replica, heard: list[bytes]) -> None:
    """All pages, with the right key, a wrong one and none; and posts that are wrong in all ways."""
    for key in (CANARIES["http"], CANARIES["http"] + "x", ""):
        for path in PATHS:
            answer = service.request("GET", path, headers={"X-API-KEY": key})
            heard += [answer.body, str(answer.headers).encode()]
    body = CANARIES["body"]
    for raw in (
        f'[{{"Body":"{body}"',
        f'[{{"Body":["{body}"]}}]',
        json.dumps([{"Body": body, "Addresses": 5}]),
    ):
        answer = service.request("POST", "/post", raw.encode(), headers={"X-API-KEY": CANARIES["http"]})
        heard += [answer.body, str(answer.headers).encode()]


def _look(world: Run, heard: list[bytes]) -> int:
    """Search everything; how many octets that was."""
    places = {f"an answer ({number})": said for number, said in enumerate(heard)}
    for replica in world.world.replicas:
        log: Path = replica.child.log
        places[f"the log of {replica.child.name}"] = log.read_bytes()
    for record in world.world.records(world.topics.dead):
        places[f"headers of a dead letter at {record.offset()}"] = repr(record.headers()).encode()
    for record in world.world.records(world.topics.reports):
        places[f"key and headers of a report at {record.offset()}"] = repr(record.headers()).encode()
    for place, said in places.items():
        for name, secret in CANARIES.items():
            if secret.encode() in said:
                world.fault(f"the canary of {name} is in {place}")
    # And the search itself can find: the body has to be in the reports.
    if not any(
        CANARIES["body"].encode() in (r.value() or b"") for r in world.world.records(world.topics.reports)
    ):
        world.fault("the canary of body is not where it ought to be, so the search shows nothing")
    return sum(map(len, places.values()))
