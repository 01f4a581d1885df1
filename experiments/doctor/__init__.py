"""What would go wrong, said before anything is loaded."""
