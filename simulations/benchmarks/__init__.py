"""Measurements of the real code, each beside a raw baseline from the same run: ``python -m simulations.benchmarks``."""
