"""The commands: configuration, runs and what they leave on disk. `python -m experiments` is `rl-unlearn`."""
