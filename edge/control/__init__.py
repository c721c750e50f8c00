"""What the cloud decides and the device obeys: what is trusted, the policy, the models, the twin."""
