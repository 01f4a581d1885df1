"""Models of others: folders, hub, single files; looked at, compared, loaded."""
