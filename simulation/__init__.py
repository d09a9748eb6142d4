"""A simulated world for the sending side: replicas of the service over a store, a topic and relays in memory.

Time is virtual, everything that happens comes from a seed, and a failure is repeated by it. The service is
the real one (`mailsender.service.Replica`); what is beyond its ports is played here.
"""
