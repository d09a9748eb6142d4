"""From the in-topic to durable letters."""
