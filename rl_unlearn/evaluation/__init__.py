"""Images judged: rates with intervals, distances, a comparison, a verdict."""
