"""The recipes, one per file; an installed package has them as `jax_reparam.recipes`."""
