"""The real process and the real disk: power cuts, kills, failing input and output, flipped bits, stepped clocks."""
