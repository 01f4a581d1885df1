"""Images drawn, judged, attacked and compared."""
