"""Compiles the modules of the hot path by mypyc into the wheel, where `MAILSENDER_COMPILE=1` asks for it.

Off by default: then no compiler and no mypy are needed, and the wheel is one for every platform. The sources
are the same in both forms and lie in both wheels. pyproject.toml has the list of modules.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Names of third parties are taken as Any, whether they are installed here or not: the same C comes out
# everywhere. `make lint` checks the types strictly, with everything in view.
MYPY = ["--config-file=", "--python-version=3.11", "--ignore-missing-imports", "--no-site-packages"]


def wanted() -> bool:
    """Whether the environment asks for the compiled form."""
    return os.environ.get("MAILSENDER_COMPILE", "") not in {"", "0"}


class MypycHook(BuildHookInterface):
    """Adds a platform's extension modules to the wheel."""

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return list(self.config["requires"]) if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the wheel is filled."""
        if not wanted() or version == "editable":
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="mailsender-mypyc-")
        for made in compiled(Path(self.root), self.config["modules"], Path(self._scratch.name)):
            build_data["force_include"][str(made)] = str(made.relative_to(Path(self._scratch.name) / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  hatchling's signature
        """Leave nothing behind."""
        if self._scratch is not None:
            self._scratch.cleanup()


def compiled(root: Path, modules: list[str], scratch: Path) -> list[Path]:
    """The extension modules, below `lib` in `scratch`; the source tree stays as it is."""
    from mypyc.build import mypycify  # noqa: PLC0415  needed in this one case only
    from setuptools import Distribution  # noqa: PLC0415  as above

    before = Path.cwd()
    os.chdir(root)  # mypyc names modules by their paths from where it runs
    try:
        files = [f"{module.replace('.', '/')}.py" for module in modules]
        options = [*MYPY, f"--cache-dir={scratch / 'cache'}"]
        extensions = mypycify(
            [*options, *files],
            opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"),
            debug_level="0",
            target_dir=str(scratch / "c"),
            group_name="mailsender",
        )
        build = Distribution({"name": "mailsender", "ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib, build.build_temp = str(scratch / "lib"), str(scratch / "o")
        build.ensure_finalized()
        build.run()
    finally:
        os.chdir(before)
    return sorted((scratch / "lib").rglob("*.so"))
