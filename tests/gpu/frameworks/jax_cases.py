"""JAX on the GPU: compilation, derivatives, control flow, libraries, callbacks and training, repeatable by XLA's flags."""

import jax
import jax.numpy as jnp
import numpy
from cases import case, close

KEY = jax.random.PRNGKey(0)
A, B = jax.random.normal(KEY, (64, 48)), jax.random.normal(jax.random.PRNGKey(1), (48, 32))
SYMMETRIC = A.T @ A + 48 * jnp.eye(48)


@case("the device")
def device():
    assert jax.default_backend() == "gpu", jax.default_backend()
    return jax.devices()[0].device_kind, len(jax.devices()) >= 1


@case("jit")
def jit():
    got = jax.jit(lambda x: jnp.tanh(x) * 2 + jnp.sin(x).sum())(A)
    close(got, numpy.tanh(A) * 2 + numpy.sin(A).sum(), 1e-3)
    return got


@case("matrix product")
def product():
    with jax.default_matmul_precision("highest"):
        got = A @ B
    close(got, numpy.asarray(A) @ numpy.asarray(B))
    return got


@case("matrix product, bfloat16")
def product_bfloat16():
    a = jnp.round(A).astype(jnp.bfloat16)
    got = jnp.matmul(a, a.T, preferred_element_type=jnp.float32)
    close(got, numpy.round(A) @ numpy.round(A).T)
    return got


@case("grad")
def grad():
    got = jax.jit(jax.grad(lambda x: (jnp.sin(x) ** 2).sum()))(A)
    close(got, numpy.sin(2 * numpy.asarray(A)))
    return got


@case("hessian and jacobians")
def hessian():
    x = jnp.arange(6.0)
    got = jax.hessian(lambda v: (v**3).sum())(x)
    close(got, numpy.diag(6 * numpy.arange(6.0)))
    return got, jax.jacfwd(jnp.cumsum)(x), jax.jacrev(jnp.cumsum)(x)


@case("custom derivative")
def custom():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (twice(x), None), lambda _, g: (100 * g,))
    got = jax.grad(lambda x: twice(x).sum())(jnp.ones(5))
    assert (got == 100).all()
    return got


@case("scan")
def scan():
    last, all_of_them = jax.jit(lambda x: jax.lax.scan(lambda c, v: (c * 0.5 + v, c), 0.0, x))(jnp.arange(100.0))
    state, wanted = 0.0, []
    for v in range(100):
        wanted.append(state)
        state = state * 0.5 + v
    close(all_of_them, wanted)
    return last, all_of_them


@case("while, cond, fori")
def control():
    return (jax.jit(lambda n: jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] + s[0]), (0, 0)))(1000)[1],
            jax.jit(lambda p, x: jax.lax.cond(p, lambda v: v + 1, lambda v: v - 1, x))(True, 5), jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda i, v: v * 2 + i, x))(1))


@case("vmap")
def vmap():
    got = jax.vmap(lambda row: jnp.dot(row, row))(A)
    close(got, (numpy.asarray(A) ** 2).sum(1))
    return got


@case("sharding on one device")
def sharded():
    mesh = jax.sharding.Mesh(numpy.array(jax.devices()[:1]), ("d",))
    x = jax.device_put(A, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d")))
    return jax.jit(lambda v: v * 2)(x)


@case("fft")
def fft():
    got = jnp.fft.fft2(A)
    close(got, numpy.fft.fft2(A), 1e-2)
    return got, jnp.fft.irfft(jnp.fft.rfft(A))


@case("cholesky and solve")
def cholesky():
    got = jnp.linalg.solve(SYMMETRIC, jnp.ones(48))
    close(numpy.asarray(SYMMETRIC) @ numpy.asarray(got), numpy.ones(48), 1e-2)
    return got, jnp.linalg.cholesky(SYMMETRIC)


@case("qr, svd, eigenvalues")
def decompositions():
    q, r = jnp.linalg.qr(A)
    with jax.default_matmul_precision("highest"):
        close(q @ r, A)
    singular = jnp.linalg.svd(A, compute_uv=False)
    close(singular, numpy.linalg.svd(A, compute_uv=False), 1e-2)
    return singular, jnp.linalg.eigvalsh(SYMMETRIC)


@case("convolution")
def convolution():
    x, w = jnp.round(jax.random.normal(KEY, (2, 4, 12, 12))), jnp.round(jax.random.normal(KEY, (6, 4, 3, 3)))
    got = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")
    assert got.shape == (2, 6, 12, 12)
    return got


@case("sort and search")
def sort():
    x = jax.random.randint(KEY, (10000,), -500, 500)
    got = jnp.sort(x)
    assert (numpy.asarray(got) == numpy.sort(x)).all()
    return got, jnp.argsort(x, stable=True), jnp.searchsorted(got, jnp.arange(-5, 5)), jax.lax.top_k(x, 10)[0]


@case("random numbers")
def random():
    return jax.random.uniform(KEY, (1000,)), jax.random.normal(KEY, (1000,)), jax.random.permutation(KEY, 500), jax.random.categorical(KEY, jnp.ones((20, 5)))


@case("scatter and segments")
def scatter():
    got = jnp.zeros(50, jnp.int32).at[jnp.arange(1000) % 50].add(1)
    assert (got == 20).all()
    return got, jax.ops.segment_sum(jnp.arange(100), jnp.arange(100) // 10, 10)


@case("callbacks into Python")
def callback():
    seen = []
    function = jax.jit(lambda x: jax.pure_callback(lambda v: numpy.asarray(v) * 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + 1)
    got = function(jnp.arange(10.0))
    jax.jit(lambda x: jax.debug.callback(lambda v: seen.append(float(v)), x.sum()))(jnp.arange(4.0))
    jax.effects_barrier()
    assert seen == [6.0]
    close(got, numpy.arange(10) * 2 + 1)
    return got


@case("donated buffers and copies")
def donated():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(100000)
    for _ in range(50):
        x = step(x)
    return jax.device_get(x), jax.device_put(numpy.arange(1000)).block_until_ready()


@case("double precision")
def double():
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        x = jnp.linspace(0, 1, 1000, dtype=jnp.float64)
        got = jnp.sin(x).sum()
        close(got, numpy.sin(numpy.linspace(0, 1, 1000)).sum(), 1e-9)
        return got


@case("fifty training steps")
def training():
    keys = jax.random.split(KEY, 3)
    weights = {"in": jax.random.normal(keys[0], (16, 64)) * 0.1, "out": jax.random.normal(keys[1], (64, 1)) * 0.1}
    x = jax.random.normal(keys[2], (128, 16))
    y = x.sum(1, keepdims=True)

    def loss_of(w):
        return ((jnp.tanh(x @ w["in"]) @ w["out"] - y) ** 2).mean()

    @jax.jit
    def step(w):
        loss, gradient = jax.value_and_grad(loss_of)(w)
        return jax.tree.map(lambda p, g: p - 0.05 * g, w, gradient), loss

    losses = []
    for _ in range(50):
        weights, loss = step(weights)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return losses


@case("ahead-of-time compilation")
def ahead():
    compiled = jax.jit(lambda x: x * 3).lower(A).compile()
    return compiled(A), compiled.memory_analysis() is not None
