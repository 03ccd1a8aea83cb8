"""Who asks, what they may, and what it cost. Pure: time and look-ups are arguments."""
