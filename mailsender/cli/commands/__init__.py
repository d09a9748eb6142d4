"""What one can type, a module for each kind of command; `mailsender.cli.app` has them in their order.

Modules are imported inside of the commands that need them, so that `mailsender --help` and `mailsender
status` do not pay for Kafka's and MongoDB's clients; each such line carries its `noqa: PLC0415`.
"""
