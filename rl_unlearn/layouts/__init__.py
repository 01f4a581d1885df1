"""What lies in a pipeline's folder, by family: told by small files and without torch, a file for
each family.
"""
