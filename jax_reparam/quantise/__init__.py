"""From a float32 graph to integers: ranges, rounding, bias correction, 16 bits where they pay."""
