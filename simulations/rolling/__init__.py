"""The scenario ``rollout``: a fleet of thousands gets a model in stages, and a bad one comes back.

The control plane, its store, signing and verification, the trial and the rollouts are the product's; devices keep in
memory what they would keep in their stores, and time, network, disks and probes are ours.
"""
