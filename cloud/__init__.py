"""The control plane: one feed per fleet, its archive, its policies and models."""
