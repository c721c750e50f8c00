"""A whole fleet in one process, under virtual time: the real cores, and all around them ours (docs/SIMULATION.md)."""
