"""Inputs that are guided by coverage, with atheris (libFuzzer), held against the same judges.

    python -m proof.fuzz.guided records -max_total_time=60 -seed=1

What follows the target's name is for libFuzzer. A finding ends the process with a status that is not 0, and
leaves the input in a file `crash-…` in the current directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from proof.table import NOT_RUN, Row

ROOT = Path(__file__).parents[2]
TARGETS = ("records", "messages", "replies", "dialogue")


def main() -> None:
    # By its name, for it publishes no types and is not everywhere.
    atheris: Any = importlib.import_module("atheris")

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["mailsender"]):
        from mailsender.model.letter import Letter
        from proof.fuzz import chance, dialogue, targets

    def letter(data: bytes) -> Letter:
        provider = atheris.FuzzedDataProvider(data)
        subject = provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 200))
        body = provider.ConsumeUnicode(provider.remaining_bytes())
        return Letter(id="6b03f03e1c3fe5165a363fce", addresses=("a@b.c",), subject=subject, body=body)

    def pieces(data: bytes) -> list[bytes]:
        cut = data[0] % (len(data) or 1) if data else 0
        return [data[1:cut], data[max(1, cut) :]]

    seeds = {
        "records": chance.record(Random(1)),
        "messages": b"subject and body",
        "replies": b"\x05250-one\r\n250 2.1.0 two\r\n",
        "dialogue": bytes((1, 8, 0, 8, 1, *[0] * 12)),
    }
    judges: dict[str, Any] = {
        "records": targets.judge_record,
        "messages": lambda data: targets.judge_message(letter(data)),
        "replies": lambda data: targets.judge_replies(pieces(data)),
        "dialogue": dialogue.judge_dialogue,
    }
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    (corpus / "first").write_bytes(seeds[name])
    for number in range(200 if name == "records" else 0):
        (corpus / str(number)).write_bytes(chance.record(Random(number)))
    atheris.Setup([sys.argv[0], *sys.argv[1:], str(corpus)], lambda data: judges[name](data) and None)
    atheris.Fuzz()


def guided(name: str, seed: int, *, seconds: int, directory: Path) -> Row:
    """One target for so many seconds, in a process of its own."""
    title, began = f"guided inputs: {name}", time.monotonic()
    repeat = f"python -m proof.fuzz.guided {name} -max_total_time={seconds} -seed={seed}"
    if importlib.util.find_spec("atheris") is None:
        return Row(experiment=title, seed=seed, runs=0, verdict=f"{NOT_RUN}: atheris is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "proof.fuzz.guided", name, f"-max_total_time={seconds}", f"-seed={seed}"]
    command += ["-print_final_stats=1", f"-artifact_prefix={directory}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    runs = re.search(r"stat::number_of_executed_units:\s+(\d+)", said)
    edges = re.findall(r"\bcov: (\d+)", said)
    return Row(
        experiment=title,
        seed=seed,
        runs=int(runs[1]) if runs else 0,
        verdict="kept" if done.returncode == 0 else "BROKEN: a finding",
        notes=f"{edges[-1] if edges else '?'} edges covered",
        seconds=time.monotonic() - began,
        repeat=repeat,
        details=() if done.returncode == 0 else tuple(said.splitlines()[-25:]),
    )


if __name__ == "__main__":
    main()
