"""Short runs of the crash tests in ``simulations.crash``, and tests of what they stand on."""
