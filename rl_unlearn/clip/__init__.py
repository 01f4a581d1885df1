"""CLIP models that see what an image shows."""
