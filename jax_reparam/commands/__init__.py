"""The commands of `jax-reparam`, one module each."""
