"""ISO 8583: dialects as data, a codec compiled from them, and messages."""
