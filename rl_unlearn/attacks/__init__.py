"""Attacks: how easily does an unlearned model draw the forgotten concept again?

All of them see the model's own denoising loss on reference images of the concept and nothing else:
no classifier, no judge. They work on any policy, that is on any Stable Diffusion 1.x or 2.x
pipeline.
"""
