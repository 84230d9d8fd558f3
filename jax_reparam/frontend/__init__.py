"""From audio to the input of a model; needs neither jax nor TensorFlow."""
