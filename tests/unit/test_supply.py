"""What comes from elsewhere is pinned by its hash, and what is ours holds no secret."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PINNED = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^\s;]+( ; .+)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

SECRETS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "an access key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token of GitHub or GitLab": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20})"),
    "a token of Slack": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a key of Google": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "an app password of Google": re.compile(r"(?i)password\W{1,4}[a-z]{4} [a-z]{4} [a-z]{4} [a-z]{4}\b"),
    "a signed token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a password in an address": re.compile(
        r"(?i)\b[a-z][a-z0-9+.-]+://[^\s/:@'\"{$<]+:(?!change-me@|password@)[^\s/@'\"{$<*]{3,}@"
    ),
    "a long random value": re.compile(
        r"""(?i)(?:password|secret|api_?key|token)["']?\s*[:=]\s*["']?(?=[A-Za-z+/]*[0-9])(?=[0-9+/]*[A-Za-z])"""
        r"""[A-Za-z0-9+/_-]{32,}"""
    ),
}


def found_in(text: str) -> list[str]:
    """What looks like a secret."""
    return [name for name, pattern in SECRETS.items() if pattern.search(text)]


def tree() -> Iterator[Path]:
    """The files that are handed out; a tree that is no clone has no list of them."""
    try:
        said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no clone of the repository")
    return (ROOT / name for name in said.stdout.decode().split("\0") if name)


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_every_requirement_is_one_version_with_its_hashes(path: Path) -> None:
    lines = path.read_text().replace("\\\n", " ").splitlines()
    assert lines
    for line in lines:
        name, *hashes = re.split(r"\s+(?=--hash)", line.strip())
        assert _PINNED.fullmatch(name.strip()), name
        assert hashes, name
        assert all(_HASH.fullmatch(each.strip()) for each in hashes), name


def test_the_rules_of_security_are_on() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in rules["select"]
    off = [name for name, codes in rules["per-file-ignores"].items() if "S" in codes]
    assert not [name for name in off if name.startswith("mailsender")]


def test_no_file_holds_a_secret() -> None:
    looked = 0
    for path in tree():
        if path == Path(__file__) or not path.is_file():
            continue  # the planted ones below
        looked += 1
        # An image is no text, but what can be read in it is looked at all the same.
        found = set(found_in(path.read_text("utf-8", "replace")))
        if path.is_relative_to(ROOT / "tests") or path.is_relative_to(ROOT / "lab"):
            found.discard("a password in an address")  # made up, to be looked for in logs and errors
        assert not found, path
    assert looked > 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("a private key", "-----BEGIN PRIVATE KEY-----"),
        ("an access key of AWS", "aws_access_key_id = AKIAABCDEFGHIJKLMNOP"),
        ("a token of GitHub or GitLab", f"ghp_{'a1B2' * 9}"),
        ("a token of Slack", "xoxb-123456789012-abcdef"),
        ("a key of Google", f"AIza{'a' * 35}"),
        ("an app password of Google", 'SMTP_PASSWORD="abcd efgh ijkl mnop"'),
        ("a signed token", f"eyJ{'a' * 12}.eyJ{'b' * 12}.{'c' * 12}"),
        ("a password in an address", "mongodb://mailer:hunter22@db.internal/mail"),
        ("a long random value", "HTTP_API_KEY=4f1c9a7be0d24c6f8a35b1e7d90c2f64"),
    ],
)
def test_a_planted_secret_is_found(name: str, text: str) -> None:
    assert name in found_in(text)
