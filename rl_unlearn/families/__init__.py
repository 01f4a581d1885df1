"""Families of models: what the policy, the critic and the attacks ask of a pipeline, a file for
each.
"""
