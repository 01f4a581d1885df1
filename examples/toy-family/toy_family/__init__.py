"""Pipelines of a class of their own: what their folders hold, and how they are asked."""
