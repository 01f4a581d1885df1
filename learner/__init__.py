"""Who changes weights: the learner, and the loop that feeds it."""
