"""What is wrong with a relay of the file is told by the file's keys, each by its whole name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mailsender.check
import mailsender.smtp
from mailsender.settings.environment import Settings
from mailsender.settings.file.kinds import Table
from mailsender.settings.file.relays import OAuthTable, RelayTable, TimeoutsTable
from mailsender.smtp.of_file import KEYS, file_words

SOURCES = [
    *(path for path in sorted(Path(mailsender.smtp.__path__[0]).glob("*.py")) if path.stem != "of_file"),
    Path(mailsender.check.__path__[0]) / "probe.py",
]
TABLES: dict[str, type[Table]] = {"": RelayTable, "oauth": OAuthTable, "timeouts": TimeoutsTable}
OF_THE_SERVICE = {"SMTP_FROM"}
"""A relay of the file has no key for it: the setting holds for all."""


def texts(path: Path) -> Iterator[str]:
    """The texts of a module without its docstrings, an f-string as a whole."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings | parts
        ):
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_each_setting_in_a_text_has_its_whole_name_and_a_key_in_the_file(path: Path) -> None:
    for text in texts(path):
        assert not re.search(r"(?<![A-Za-z0-9_])_[A-Z]{2,}", text), text
        left = set(re.findall(r"SMTP_[A-Z_]*", file_words(text)))
        assert left <= OF_THE_SERVICE, text


def test_each_key_is_one_and_each_setting_too() -> None:
    known = {name.upper() for name in Settings.model_fields}
    for setting, key in KEYS.items():
        assert setting in known
        table, _, name = key.rpartition(".")
        assert name in TABLES[table].model_fields


def test_a_text_speaks_of_the_file() -> None:
    text = "without SMTP_PASSWORD, SMTP_TOKEN_FILE and SMTP_TOKEN_URL nobody logs in"
    assert file_words(text) == "without password, oauth.token_file and oauth.token_url nobody logs in"
