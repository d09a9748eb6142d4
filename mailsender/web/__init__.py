"""The aiohttp application: HTTP in, `Operations` out."""
