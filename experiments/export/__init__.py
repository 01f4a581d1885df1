"""Adapters for other programs: files, merged models, cards, what managers read."""
