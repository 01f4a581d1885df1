"""Where it runs: Ray actors on a cluster or this machine, or everything inline in one process."""
