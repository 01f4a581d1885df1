"""Who holds state between calls: rollout, critic and replay actors, as plain classes."""
