"""The sync protocol: operations, clocks, merge rules, segments, keys, and the session that moves them.

No I/O, no threads, no clock and no randomness of its own: everything that varies is passed in.
"""
