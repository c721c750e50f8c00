"""A whole fleet in one process under virtual time: the real cores, and everything around them ours (docs/SIMULATION.md)."""
