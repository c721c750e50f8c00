"""What an agent developer touches: threads of checkpoints, memories, documents, on top of collections."""
