"""Each file is one attack, with the outcome that is expected of it."""
