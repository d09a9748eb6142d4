"""`mailsender check`: tries what the settings name."""
