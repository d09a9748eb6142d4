"""The folder of templates, and the settings that name it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mailsender.app import build, build_folder
from mailsender.check.run import _folder
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Rejected
from mailsender.settings.environment import Settings, astray
from mailsender.settings.sources import SettingsError
from mailsender.templates import folder as of_folder
from mailsender.templates.folder import read_folder
from mailsender.templates.memory import MemoryShelf
from mailsender.templates.template import Part
from tests.unit.test_settings import environment

assert environment  # a fixture

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"


def test_a_folder_is_read_as_it_is_mounted(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: links to files of a folder whose name begins with dots."""
    data = tmp_path / "..2026_11_29"
    data.mkdir()
    (data / "welcome.txt").write_bytes(b"\xef\xbb\xbfHi")
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "welcome.txt").symlink_to(tmp_path / "..data" / "welcome.txt")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "old").mkdir()
    (tmp_path / ".gitkeep").write_text("")
    folder, errors = read_folder(tmp_path)
    assert errors == []
    (listed,) = folder.listed()
    assert (listed.name, listed.files, listed.saved_at) == ("welcome", ("welcome.txt",), None)
    stored = folder.look_up("welcome")
    assert stored is not None
    assert stored.template.sources[Part.TEXT, ""] == "Hi", "without the mark of some editors"
    assert folder.look_up("nosuch") is None


def test_what_is_no_text_or_too_large_is_told_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "large.txt").write_bytes(b"x" * (256 * 1024 + 1))
    (tmp_path / "good.txt").write_text("x")
    folder, errors = read_folder(tmp_path)
    assert [each.name for each in folder.listed()] == ["good"]
    assert [str(each) for each in errors] == [
        "template bad.txt: it is not UTF-8 at byte 0",
        "template large.txt: it has more than 262144 bytes",
    ]
    monkeypatch.setattr(of_folder, "MAX_FILES", 0)
    folder, errors = read_folder(tmp_path)
    assert folder.listed() == []
    assert "more than 0 files" in str(errors[0])


def test_the_service_has_the_templates_of_its_folder(environment: Any) -> None:
    settings: Settings = environment(TEMPLATES_DIR=str(EXAMPLES), MONGODB_URI="memory:")
    parts = build(settings, SystemClock())
    assert [each.name for each in parts.folder.listed()] == ["codes-layout", "password", "retrieve"]
    assert isinstance(parts.shelf, MemoryShelf)
    assert _folder(settings) == []
    assert build_folder(environment(TEMPLATES_DIR="")).listed() == []


def test_sources_without_a_language_are_in_that_of_the_setting(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    folder = build_folder(environment(TEMPLATES_DIR=str(tmp_path), TEMPLATES_LANGUAGE="pt_BR"))
    stored = folder.look_up("a")
    assert stored is not None
    assert stored.template.language == "pt-br"


def test_a_folder_with_a_fault_stops_the_start(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("\n{{ a")
    (tmp_path / "b.htm").write_text("")
    settings = environment(TEMPLATES_DIR=str(tmp_path))
    with pytest.raises(Rejected) as caught:
        build(settings, SystemClock())
    text = str(caught.value)
    assert text.startswith("TEMPLATES_DIR: template b.htm: no name of a template's file; and 1 more; see ")
    (finding,) = _folder(settings)
    assert (finding.part, finding.level, finding.text) == ("settings", "error", text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(environment: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(Rejected, match=r"TEMPLATES_DIR: .* cannot be read: Permission denied"):
        build_folder(environment(TEMPLATES_DIR=str(tmp_path)))


@pytest.mark.parametrize(("name", "why"), [("nosuch", "No such file"), ("file", "Not a directory")])
def test_what_is_no_folder_is_told(environment: Any, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Rejected, match=rf"TEMPLATES_DIR: .*{name} cannot be read: {why}"):
        build_folder(environment(TEMPLATES_DIR=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("TEMPLATES_LANGUAGE", "../x", "a language tag such as ru or pt-br is needed"),
        ("TEMPLATES_VARIABLES", "[1]", "a JSON object is needed"),
        ("TEMPLATES_VARIABLES", "{", "it is no JSON"),
        ("TEMPLATES_VARIABLES", '{"a": [' + "1," * 10_000 + "1]}", "more than 10000 values"),
    ],
)
def test_a_setting_that_says_nothing_is_named(environment: Any, name: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        environment(**{name: value})
    assert str(caught.value).startswith(f"{name}: ")
    assert why in str(caught.value)


def test_variables_are_a_json_object(environment: Any) -> None:
    assert environment(TEMPLATES_VARIABLES='{"company": "A&B", "n": 1}').variables == {
        "company": "A&B",
        "n": 1,
    }
    assert environment(TEMPLATES_VARIABLES=None).variables == {}


def test_a_slip_in_a_name_is_told() -> None:
    assert astray(["TEMPLATES_DIRS"]) == {"TEMPLATES_DIRS": "TEMPLATES_DIR"}
