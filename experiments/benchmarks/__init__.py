"""Measurements of speed: run by hand, never as tests, for a shared machine's clock proves
nothing."""
