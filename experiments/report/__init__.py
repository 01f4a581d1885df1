"""The report: a page that shows what a run did, and pictures of it."""
