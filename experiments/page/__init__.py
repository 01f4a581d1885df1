"""The parts of the report: what a run folder says, drawn as shapes and words that a template puts on one page."""
