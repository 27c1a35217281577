"""Watching a federation: what runs, where it stands, what it cost; nothing here changes anything.

``exchanges`` notes which exchange is open, ``run_reader`` and ``log_reader`` read one run's
folder, ``federation`` reads the coordinator's, into the values of ``views``. ``terminal``,
``metrics`` and ``pages`` are pure functions from those values; ``web`` serves the last two on
this machine's loopback.
"""
