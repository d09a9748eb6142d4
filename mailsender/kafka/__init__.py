"""Both sides of Kafka."""
