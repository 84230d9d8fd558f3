"""Runs a .tflite file, in LiteRT and in TFLM, and holds it against the trained model."""
