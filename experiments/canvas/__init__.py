"""The recipe of the canvas: every shipped file, made again from the emoji packages by one
command."""
