"""mailsender: a Kafka-native mail dispatcher."""

__version__ = "0.1.0"
