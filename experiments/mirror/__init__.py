"""Runs copied to a store: each committed checkpoint, and the finished run as a whole."""
