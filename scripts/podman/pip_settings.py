"""Writes this machine's pip settings, as far as they tell how to reach packages, for a build in a container.

    python pip_settings.py DIRECTORY

makes `pip_conf` and, where pip is told of a private CA, `ca_certificates`: the build's secrets of that name.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

CARRIED = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout", "retries")
"""Settings that mean the same in a container. A directory of the machine's (find-links) does not."""

CERTIFICATES = "/run/secrets/ca_certificates"
"""Where the build finds the second secret."""


def settings() -> dict[str, str]:
    """What pip itself has found in its files and in the environment, the strongest source last."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in {"global", "install", ":env:"}:
            found[key] = str(ast.literal_eval(value))
    return found


def main() -> None:
    """Write the files."""
    directory, found = Path(sys.argv[1]), settings()
    lines = ["[global]"]
    # A value of several lines goes on with indented ones.
    lines += [f"{key} = {found[key].replace(chr(10), chr(10) + '    ')}" for key in CARRIED if key in found]
    if "cert" in found and Path(found["cert"]).is_file():
        shutil.copyfile(found["cert"], directory / "ca_certificates")
        lines.append(f"cert = {CERTIFICATES}")
    (directory / "pip_conf").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
