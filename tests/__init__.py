"""The proof: tests mirror the packages they are about."""
