"""Of the compiled form, what never meets a compiled module is not tested a second time: half of the tests."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
_IMPORT = re.compile(
    r"^\s*from (mailsender[\w.]*) import ([\w, ]+)|^\s*import (mailsender[\w.]*)", re.MULTILINE
)


def _meets(source: str, compiled: set[str]) -> bool:
    """Whether tests import a compiled module, the service built of them, or all by way of `tests`."""
    for module, names, alone in _IMPORT.findall(source):
        found = {module, alone, *(f"{module}.{name.strip()}" for name in names.split(","))}
        if found & compiled:
            return True
    return "from tests." in source and not source.count("from mailsender.")


def _passed_over() -> list[str]:
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    compiled = {*hook["modules"], "mailsender.service", "mailsender.app"}
    files = HERE.glob("test_*.py")
    return [each.name for each in files if not _meets(each.read_text("utf-8"), compiled)]


collect_ignore = _passed_over() if os.environ.get("MAILSENDER_TEST_COMPILED") else []
