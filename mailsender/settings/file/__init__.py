"""The file that `MAILSENDER_CONFIG` names: relays and routes beside those of `SMTP_*`, in TOML."""
