"""Supervised erasers, which need a word for what they erase: what reinforcement learning is
measured against, and can start from.
"""
