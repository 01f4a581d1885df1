"""A run as its folder holds it: begun, recorded, set aside, resumed."""
