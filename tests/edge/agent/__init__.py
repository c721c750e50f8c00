"""The stores of agents, each by itself."""
