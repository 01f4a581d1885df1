"""What the studies in docs/studies are made with, where a verb of the command line is not
enough."""
