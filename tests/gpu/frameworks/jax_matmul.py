"""JAX as it comes, with its tuning by the clock: whole numbers, so that every choice gives the same."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax
import jax.numpy as jnp
from cases import case

x = jnp.ones((512, 512))
case("product of ones")(lambda: [jax.default_backend(), float((x @ x).sum())])
case("gradient")(lambda: float(jax.jit(jax.grad(lambda v: (v * v).sum()))(jnp.arange(10.0)).sum()))
