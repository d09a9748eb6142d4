"""The embedded stack: a broker, a mongod and a mail catcher as child processes, without Docker."""
