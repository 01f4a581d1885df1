"""Sweeps: many runs that differ in some settings, their table and their trade-offs."""
