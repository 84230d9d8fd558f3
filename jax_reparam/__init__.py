"""Transformer re-parameterization for on-device speech emotion recognition."""
