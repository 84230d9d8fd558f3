"""`fold.py`: a trained checkpoint in, a verified folder that a phone or a microcontroller runs out."""
