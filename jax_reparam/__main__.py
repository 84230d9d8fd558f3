"""`python -m jax_reparam COMMAND`: the same as `jax-reparam COMMAND`."""

from jax_reparam.commands import main

if __name__ == '__main__':
    main()
