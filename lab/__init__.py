"""What tests, proof and benchmarks share: the real parts, replicas around them, and odd relays.

`python -m lab.relay_zoo` serves one of those relays by hand.
"""
