"""PyTorch's own view of CUDA: streams, events, graphs, copies, memory and its books, errors."""

import subprocess
import sys

import torch
from cases import case

torch.manual_seed(5)


@case("the device")
def device():
    properties = torch.cuda.get_device_properties(0)
    assert torch.cuda.is_available() and torch.cuda.device_count() >= 1
    return properties.name, properties.major, properties.minor, properties.multi_processor_count, str(properties.uuid), torch.cuda.get_arch_list()


@case("devices counted through NVML")
def counted_by_nvml():
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.is_initialized())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**__import__("os").environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}).stdout.strip()


@case("streams that wait for each other")
def streams():
    x = torch.arange(100000, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    first.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(first):
        y = x * 2
        event = first.record_event()
    with torch.cuda.stream(second):
        second.wait_event(event)
        z = y + 1
    torch.cuda.current_stream().wait_stream(second)
    assert torch.equal(z.cpu(), torch.arange(100000) * 2 + 1)
    return z


@case("events measure time")
def events():
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(20_000_000)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) > 5, stop.query()


@case("copies, pinned and pageable")
def copies():
    source = torch.randint(0, 256, (3_000_001,), dtype=torch.uint8)
    pinned = source.pin_memory()
    there = [source.cuda(), pinned.cuda(non_blocking=True)]
    back = torch.empty_like(source).pin_memory()
    back.copy_(there[1], non_blocking=True)
    torch.cuda.synchronize()
    assert pinned.is_pinned() and torch.equal(back, source) and torch.equal(there[0].cpu(), source)
    return back


@case("copies of strided and converted tensors")
def strided():
    x = torch.arange(10000.0).view(100, 100)
    y = torch.empty(100, 50, dtype=torch.float16).cuda()
    y.copy_(x[:, ::2] % 64)
    assert torch.equal(y.cpu().float(), x[:, ::2] % 64)
    return y


def mlp():
    torch.manual_seed(6)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).cuda()


@case("graph of a network")
def graph():
    net, x = mlp(), torch.ones(16, 32, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                net(x)
        torch.cuda.current_stream().wait_stream(side)
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording):
            y = net(x)
        for i in range(20):
            x.fill_(i)
            recording.replay()
            assert torch.equal(y, net(torch.full((16, 32), float(i), device="cuda"))), i
    return y


@case("graph of whole training steps")
def graphed_training():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x, y = torch.randn(16, 32, device="cuda"), torch.randn(16, 8, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        loss = step()
    losses = []
    for _ in range(50):
        recording.replay()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses


@case("make_graphed_callables")
def graphed_callables():
    net = mlp()
    graphed = torch.cuda.make_graphed_callables(net, (torch.randn(16, 32, device="cuda"),))
    x = torch.ones(16, 32, device="cuda")
    out = graphed(x)
    out.sum().backward()
    return out, net[0].weight.grad


@case("graph with random numbers")
def graph_random():
    torch.cuda.manual_seed(9)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        numbers = torch.rand(100, device="cuda")
    seen = []
    for _ in range(3):
        recording.replay()
        seen.append(numbers.clone())
    assert not torch.equal(seen[0], seen[1])
    return seen


@case("memory and its books")
def memory():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    free, total = torch.cuda.mem_get_info()
    block = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    less, same = torch.cuda.mem_get_info()
    grown = torch.cuda.memory_allocated() - before
    assert total == same and 0 < free <= total and 0 < less <= total, (free, less, total)  # others use the card too
    del block
    torch.cuda.empty_cache()
    stats = torch.cuda.memory_stats()
    return grown, torch.cuda.max_memory_allocated() - before, stats["num_ooms"], len(torch.cuda.memory_summary()) > 100, len(torch.cuda.memory_snapshot()) >= 0


@case("out of memory, and on")
def out_of_memory():
    try:
        torch.empty(1 << 42, dtype=torch.uint8, device="cuda")
        return "allocated four terabytes"
    except torch.cuda.OutOfMemoryError:
        x = torch.ones(1000, device="cuda")
        return "OutOfMemoryError", x.sum().item(), torch.cuda.memory_stats()["num_ooms"]


@case("memory fraction")
def fraction():
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        torch.empty(int(torch.cuda.mem_get_info()[1] * 0.02), dtype=torch.uint8, device="cuda")
        return "no limit"
    except torch.cuda.OutOfMemoryError:
        return "OutOfMemoryError"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@case("a kernel compiled at run time")
def jiterator():
    function = torch.cuda.jiterator._create_jit_fn("template <typename T> T twice(T x, T y) { return x * y + y; }")
    x = torch.arange(1000.0, device="cuda")
    y = function(x, x)
    assert torch.equal(y.cpu(), torch.arange(1000.0) ** 2 + torch.arange(1000.0))
    return y


@case("many threads")
def threads():
    import concurrent.futures

    def work(i):
        with torch.cuda.stream(torch.cuda.Stream()):
            x = torch.full((500, 500), float(i), device="cuda")
            for _ in range(20):
                x = (x @ torch.eye(500, device="cuda")) + 1
            return x.sum().item()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, range(16)))


@case("tensors through DLPack and __cuda_array_interface__")
def interchange():
    x = torch.arange(100.0, device="cuda")
    y = torch.from_dlpack(x)
    assert y.data_ptr() == x.data_ptr() == x.__cuda_array_interface__["data"][0]
    return y


@case("a device-side assertion is the last word")
def device_assert():
    code = "import torch\ntry:\n    torch.zeros(4, device='cuda')[torch.tensor([9], device='cuda')].cpu()\nexcept Exception as error:\n    print(type(error).__name__, str(error).splitlines()[0])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "device-side assert" in done.stdout and "index out of bounds" in done.stderr, done
    return done.stdout.strip()
