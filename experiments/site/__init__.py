"""The documentation as a site: what is written, and what the code says of itself."""
