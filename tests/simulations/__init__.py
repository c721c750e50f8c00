"""Tests of the simulator, the benchmarks and the demo."""
