"""Concept unlearning in text-to-image diffusion models by critic-guided reinforcement learning
(arXiv 2601.03213).
"""

__version__ = "0.1.0"
