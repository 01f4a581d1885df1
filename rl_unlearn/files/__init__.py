"""Files of any origin: read whole or refused, written whole or not at all."""
