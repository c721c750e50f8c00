"""docs/CRASH_TESTS.md"""
