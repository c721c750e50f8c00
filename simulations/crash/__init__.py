"""Crash tests with real processes, real files and a real kernel: ``python -m simulations.crash``.

``kills`` ends a process at every system call that changes its store; ``power`` replays what it wrote as a disk may
keep it when the power goes; ``flips`` flips a bit in every byte of a closed store; ``faults`` has the disk full or
failing. What came out the last time is in docs/CRASH_TESTS.md.
"""
