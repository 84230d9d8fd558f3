"""The field test: recordings as other microphones and rooms would have made them, and what is decided then."""
