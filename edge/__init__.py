"""What runs on the device: the store, the agent's API, the replicator."""
