"""What a run will cost, told without any weights: FLOPs, images, hours, memory and disk."""
