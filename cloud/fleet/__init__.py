"""What the fleet should be: signed targets, policies, models, twins, rollouts."""
