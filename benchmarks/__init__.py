"""How fast mailsender is, beside what its users would take instead; `python -m benchmarks --help`."""
