"""Wants the promises of mailsender to be false, and says in a table what it found.

Nothing here shares code with what it judges: the relay (`smtp_server`) and the judge (`checker`) import no
module of `mailsender`. Only the parts around them, the broker and mongod, are started by `mailsender.dev`.
"""
