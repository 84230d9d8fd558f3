"""A .tflite file as a graph for TFLM: passes, tiles, the arena, what it costs. Knows no model and runs nothing."""
