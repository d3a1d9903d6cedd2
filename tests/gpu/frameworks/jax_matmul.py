"""JAX: a product of ones and a gradient."""
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax
import jax.numpy as jnp

x = jnp.ones((512, 512))
print(jax.default_backend(), float((x @ x).sum()))
print(float(jax.jit(jax.grad(lambda v: (v * v).sum()))(jnp.arange(10.0)).sum()))
