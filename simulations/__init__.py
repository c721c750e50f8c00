"""A whole fleet in one process under virtual time, and the benchmarks."""
