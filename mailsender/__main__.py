"""Where the process begins: `python -m mailsender`, and the `mailsender` command."""

import sys

from mailsender import signals

if sys.argv[1:2] == ["run"]:
    signals.end_at_once()

# It imports much, and the signals must be heard before.
from mailsender.cli.app import main

if __name__ == "__main__":
    main()

__all__ = ["main"]
