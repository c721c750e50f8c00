"""What is on the device's disk: the delta log, which is the truth, and the projections that are searched."""
