"""PyTorch's operations over CUDA's libraries, small and repeatable; where it is cheap, against the CPU."""

import cases
import torch
import torch.nn.functional as F
from cases import Skip, close

torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = False
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
torch.manual_seed(7)
A, B = torch.randn(96, 80), torch.randn(80, 112)
SQUARE = torch.randn(48, 48)
SYMMETRIC = SQUARE @ SQUARE.T + 48 * torch.eye(48)
IMAGES = torch.randn(4, 8, 20, 20)
WHOLE = torch.randint(-3, 4, (64, 64)).float()


def case(name):
    """Each case has random numbers of its own, whatever became of those before it."""

    def run(body):
        torch.manual_seed(7)
        return cases.case(name)(body)

    return run


def as_on_cpu(function, *inputs, tolerance=1e-3):
    """The result on the GPU, once it agrees with the CPU's."""
    got, wanted = function(*[x.cuda() for x in inputs]), function(*inputs)
    for mine, theirs in zip(*[value if isinstance(value, (tuple, list)) else (value,) for value in (got, wanted)]):
        close(mine.detach().cpu(), theirs.detach(), tolerance)
    return got


def exact(function, *inputs):
    got, wanted = function(*[x.cuda() for x in inputs]), function(*inputs)
    assert torch.equal(got.cpu(), wanted)
    return got


# cuBLAS and cuBLASLt
case("matmul fp32")(lambda: as_on_cpu(torch.matmul, A, B))
case("matmul fp64")(lambda: as_on_cpu(torch.matmul, A.double(), B.double(), tolerance=1e-9))
case("matmul complex")(lambda: as_on_cpu(torch.matmul, torch.complex(A, A), torch.complex(B, -B)))
case("matmul fp16")(lambda: as_on_cpu(lambda a, b: (a @ b).float(), WHOLE.half(), WHOLE.half()))
case("matmul bf16")(lambda: as_on_cpu(lambda a, b: (a @ b).float(), WHOLE.bfloat16(), WHOLE.bfloat16(), tolerance=1e-2))
case("bmm")(lambda: as_on_cpu(torch.bmm, torch.randn(6, 20, 30), torch.randn(6, 30, 10)))
case("linear with bias and gelu")(lambda: as_on_cpu(lambda x, w, b: F.gelu(F.linear(x, w, b)), A, B.T.contiguous(), torch.randn(112)))
case("addmm and baddbmm")(lambda: as_on_cpu(lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), torch.randn(96, 112), A, B))
case("einsum")(lambda: as_on_cpu(lambda x, y: torch.einsum("bij,bkj->bik", x, y), torch.randn(3, 10, 12), torch.randn(3, 9, 12)))


@case("matmul tf32")
def matmul_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return as_on_cpu(torch.matmul, A, B, tolerance=0.1)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@case("matmul int8")
def matmul_int8():
    a = torch.randint(-9, 10, (64, 64), dtype=torch.int8)
    got = torch._int_mm(a.cuda(), a.cuda().t())
    assert torch.equal(got.cpu(), a.int() @ a.T.int())
    return got


@case("matmul fp8")
def matmul_fp8():
    if torch.cuda.get_device_capability() < (8, 9):
        raise Skip("needs compute capability 8.9")
    a = WHOLE.to(torch.float8_e4m3fn).cuda()
    one = torch.ones((), device="cuda")
    got = torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    close(got.float().cpu(), WHOLE @ WHOLE.T, 1e-2)
    return got


# cuDNN
case("conv2d")(lambda: as_on_cpu(F.conv2d, IMAGES, torch.randn(12, 8, 3, 3)))
case("conv2d grouped, strided, dilated")(lambda: as_on_cpu(lambda x, w: F.conv2d(x, w, stride=2, padding=2, dilation=2, groups=4), IMAGES, torch.randn(16, 2, 3, 3)))
case("conv1d and conv3d")(lambda: [as_on_cpu(F.conv1d, torch.randn(2, 4, 50), torch.randn(6, 4, 5)), as_on_cpu(F.conv3d, torch.randn(2, 3, 8, 8, 8), torch.randn(4, 3, 3, 3, 3))])
case("conv transposed")(lambda: as_on_cpu(lambda x, w: F.conv_transpose2d(x, w, stride=2), IMAGES, torch.randn(8, 6, 3, 3)))
case("conv channels last, fp16")(lambda: F.conv2d(IMAGES.cuda().half().to(memory_format=torch.channels_last), torch.randn(16, 8, 3, 3).cuda().half()))
case("batch and group normalisation")(lambda: [as_on_cpu(lambda x: F.batch_norm(x, None, None, training=True), IMAGES), as_on_cpu(lambda x: F.group_norm(x, 4), IMAGES)])
case("layer normalisation")(lambda: as_on_cpu(lambda x: F.layer_norm(x, (80,)), A))
case("pooling")(lambda: [as_on_cpu(lambda x: F.max_pool2d(x, 2), IMAGES), as_on_cpu(lambda x: F.avg_pool2d(x, 3, padding=1), IMAGES), as_on_cpu(lambda x: F.adaptive_avg_pool2d(x, 1), IMAGES)])


@case("conv2d with cudnn.benchmark")
def conv_benchmark():
    """The choice is the clock's, so whole numbers: every algorithm that multiplies exactly gives the same."""
    torch.backends.cudnn.benchmark = True
    try:
        x, w = torch.randint(-2, 3, (2, 4, 16, 16)).float(), torch.randint(-2, 3, (8, 4, 3, 3)).float()
        got = F.conv2d(x.cuda(), w.cuda()).round()
        assert torch.equal(got.cpu(), F.conv2d(x, w))
        return got
    finally:
        torch.backends.cudnn.benchmark = False


def recurrent(kind):
    torch.manual_seed(21)
    net = kind(input_size=16, hidden_size=24, num_layers=2)
    x = torch.randn(10, 4, 16)
    wanted = net(x)[0]
    net = net.cuda()
    got = net(x.cuda())[0]
    close(got.detach().cpu(), wanted.detach(), 1e-3)
    got.sum().backward()
    return got, net.weight_ih_l0.grad


case("LSTM with gradients")(lambda: recurrent(torch.nn.LSTM))
case("GRU with gradients")(lambda: recurrent(torch.nn.GRU))


def attention(backend, dtype):
    torch.manual_seed(23)
    q, k, v = [torch.randn(2, 4, 64, 32) for _ in range(3)]
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.use_deterministic_algorithms(False)  # cuDNN's gradients are not; these have none
    with torch.nn.attention.sdpa_kernel(backend):
        got = F.scaled_dot_product_attention(*[x.cuda().to(dtype) for x in (q, k, v)], is_causal=True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    close(got.float().cpu(), wanted, 0.03)
    return got


BACKENDS = torch.nn.attention.SDPBackend
case("attention, flash")(lambda: attention(BACKENDS.FLASH_ATTENTION, torch.float16))
case("attention, memory-efficient")(lambda: attention(BACKENDS.EFFICIENT_ATTENTION, torch.float32))
case("attention, cuDNN")(lambda: attention(BACKENDS.CUDNN_ATTENTION, torch.bfloat16))
case("attention, plain")(lambda: attention(BACKENDS.MATH, torch.float32))

# cuFFT
case("fft")(lambda: as_on_cpu(torch.fft.fft, torch.randn(5, 100)))
case("fft of two dimensions and back")(lambda: as_on_cpu(lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(30, 40)), torch.randn(3, 30, 40)))
case("stft")(lambda: as_on_cpu(lambda x: torch.view_as_real(torch.stft(x, 64, window=torch.hann_window(64, device=x.device), return_complex=True)), torch.randn(1000)))

# cuSOLVER and MAGMA's replacements
case("cholesky")(lambda: as_on_cpu(torch.linalg.cholesky, SYMMETRIC))
case("lu and solve")(lambda: as_on_cpu(torch.linalg.solve, SYMMETRIC, torch.randn(48, 3)))
case("inverse and determinant")(lambda: [as_on_cpu(torch.linalg.inv, SYMMETRIC), as_on_cpu(lambda x: torch.linalg.slogdet(x)[1], SYMMETRIC)])
case("singular values")(lambda: as_on_cpu(torch.linalg.svdvals, SQUARE))
case("eigenvalues of a symmetric matrix")(lambda: as_on_cpu(torch.linalg.eigvalsh, SYMMETRIC))
case("eigenvalues of a batch")(lambda: as_on_cpu(torch.linalg.eigvalsh, torch.stack([SYMMETRIC[:12, :12] * i for i in range(1, 9)])))
case("lstsq and pinv")(lambda: as_on_cpu(lambda a, b: torch.linalg.lstsq(a, b).solution, torch.randn(60, 12), torch.randn(60, 2)))


@case("qr")
def qr():
    q, r = torch.linalg.qr(SQUARE.cuda())
    close((q @ r).cpu(), SQUARE)
    return q, r


# cuSPARSE
case("sparse csr times dense")(lambda: as_on_cpu(lambda x: WHOLE.relu().to_sparse_csr().to(x.device) @ x, WHOLE))
case("sparse coo times dense")(lambda: as_on_cpu(lambda x: torch.sparse.mm(WHOLE.relu().to_sparse().to(x.device), x), WHOLE))

# Random numbers
case("uniform and normal")(lambda: [torch.rand(1000, device="cuda"), torch.randn(1000, device="cuda")])
case("bernoulli, multinomial, permutation")(lambda: [torch.bernoulli(torch.full((500,), 0.3, device="cuda")), torch.multinomial(torch.ones(50, device="cuda"), 20), torch.randperm(300, device="cuda")])


@case("generator state")
def generator_state():
    generator = torch.Generator("cuda").manual_seed(5)
    state = generator.get_state()
    first = torch.randn(100, device="cuda", generator=generator)
    generator.set_state(state)
    assert torch.equal(first, torch.randn(100, device="cuda", generator=generator))
    return first


# Sorting, scans, indices: CUB and Thrust inside
VALUES = torch.randint(-1000, 1000, (5000,))
case("sort and argsort")(lambda: [exact(lambda x: x.sort(stable=True).values, VALUES), exact(lambda x: x.argsort(stable=True), VALUES)])
case("topk and kthvalue")(lambda: [exact(lambda x: x.topk(50).values, VALUES), exact(lambda x: x.kthvalue(1234).values, VALUES)])
case("cumulative sums")(lambda: [exact(lambda x: x.cumsum(0), VALUES), exact(lambda x: x.cummax(0).values, VALUES)])
case("unique and bincount")(lambda: [exact(torch.unique, VALUES), exact(torch.bincount, VALUES + 1000), exact(lambda x: torch.histc(x.float(), 20, -1000, 1000), VALUES)])
case("nonzero and masks")(lambda: [exact(lambda x: (x % 7 == 0).nonzero(), VALUES), exact(lambda x: x[x > 500], VALUES)])
case("scatter, gather, index_add")(lambda: [exact(lambda x: torch.zeros(100, dtype=x.dtype, device=x.device).index_add_(0, x % 100, x), VALUES), exact(lambda x: x.gather(0, x % 5000), VALUES.abs())])
case("sums of floats")(lambda: as_on_cpu(lambda x: [x.sum(), x.mean(), x.var(), x.norm(), x.logsumexp(0)], VALUES.float()))
case("elementwise, types")(lambda: [exact(lambda x: (x.to(kind) * 3).to(torch.int64), VALUES % 20) for kind in (torch.int8, torch.int16, torch.int32, torch.float64, torch.bfloat16)])

# Other kernels
case("softmax and cross entropy")(lambda: as_on_cpu(lambda x: F.cross_entropy(x, torch.arange(96, device=x.device) % 80), A))
case("embedding with gradient")(lambda: as_on_cpu(lambda w: torch.autograd.grad(F.embedding(torch.arange(200, device=w.device) % 50, w.requires_grad_()).square().sum(), w)[0], torch.randn(50, 16)))
case("ctc loss")(lambda: as_on_cpu(lambda x: F.ctc_loss(x.log_softmax(2), torch.arange(1, 11).repeat(2, 1).to(x.device), (40, 40), (10, 10)), torch.randn(40, 2, 20)))
case("interpolation")(lambda: as_on_cpu(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGES))
case("grid sampling")(lambda: as_on_cpu(lambda x: F.grid_sample(x, torch.linspace(-1, 1, 4 * 6 * 6 * 2, device=x.device).view(4, 6, 6, 2), align_corners=False), IMAGES))
case("dropout")(lambda: F.dropout(torch.ones(2000, device="cuda"), 0.5))
case("complex numbers")(lambda: as_on_cpu(lambda x: torch.view_as_real(torch.exp(torch.complex(x, -x))), A))
case("second derivatives")(lambda: as_on_cpu(lambda x: torch.autograd.functional.hessian(lambda v: (v**3).sum(), x), torch.randn(10)))
case("vmap and jacobian")(lambda: as_on_cpu(lambda x: torch.func.vmap(torch.func.jacrev(lambda v: v.sin() * v.sum()))(x), torch.randn(5, 8)))


def optimizer(kind, **options):
    torch.manual_seed(31)
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)).cuda()
    x, y = torch.randn(64, 20).cuda(), torch.randn(64, 1).cuda()
    tool = kind(net.parameters(), lr=0.01, **options)
    losses = []
    for _ in range(20):
        tool.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        tool.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses


case("Adam, fused")(lambda: optimizer(torch.optim.Adam, fused=True))
case("AdamW, foreach")(lambda: optimizer(torch.optim.AdamW, foreach=True))
case("SGD with momentum")(lambda: optimizer(torch.optim.SGD, momentum=0.9, nesterov=True))
case("RMSprop, capturable Adam")(lambda: [optimizer(torch.optim.RMSprop), optimizer(torch.optim.Adam, capturable=True)])
