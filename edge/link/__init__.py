"""What reaches the cloud: signed requests, the transport, the replicator."""
