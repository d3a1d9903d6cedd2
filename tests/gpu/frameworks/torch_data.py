"""What surrounds training in PyTorch: loaders with workers and pinned memory, processes, checkpoints, the profiler."""

import os
import tempfile
import time

import torch
from cases import case


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(1, 16, 16, generator=generator), index % 4


def net():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 16 * 16, 4)).cuda()


def step(model, optimizer, x, y):
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(loader, epochs=3):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = [step(model, optimizer, x.cuda(non_blocking=True), y.cuda(non_blocking=True)) for _ in range(epochs) for x, y in loader]
    assert losses[-1] < losses[0]
    return losses


def of_child(rank, results):
    torch.manual_seed(rank)
    x = torch.randn(50, 50, device="cuda")
    results.put((rank, (x @ x).sum().item().hex()))


def spawned(count):
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(of_child, args=(results,), nprocs=count)
    return [value for _, value in sorted(results.get() for _ in range(count))]


def checkpoint():
    """Saved on one model, loaded into another, onto the CPU and onto the GPU: both go on with the same losses."""
    torch.manual_seed(4)
    x, y = torch.randn(16, 1, 16, 16).cuda(), torch.randint(0, 4, (16,)).cuda()
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(5):
        step(model, optimizer, x, y)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pt")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        wanted = [step(model, optimizer, x, y) for _ in range(5)]
        for place in ("cpu", "cuda"):
            state = torch.load(path, map_location=place, weights_only=True)
            other = net()
            again = torch.optim.Adam(other.parameters(), lr=1e-3)
            other.load_state_dict(state["model"])
            again.load_state_dict(state["optimizer"])
            assert [step(other, again, x, y) for _ in range(5)] == wanted, place
    return wanted


def profiled():
    """Its figures are its own affair: it must not fail, nor change what is computed."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.ones(4, 1, 16, 16).cuda(), torch.zeros(4, dtype=torch.long).cuda()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
        losses = [step(model, optimizer, x, y) for _ in range(5)]
    assert any(event.key == "aten::conv2d" for event in profile.key_averages())
    return losses


def beside_a_pinned_batch():
    """Operations whose kernels are given structs that are filled in part. Were the batch's address, which the stack still holds,
    taken for one that they use, all of the batch would be compared at each of their launches over a network, which takes as long
    as to copy it."""
    batch = torch.ones(64, 3, 299, 299).pin_memory()
    index = torch.arange(32, device="cuda").expand(64, 3, 32, 32).contiguous()

    def step():
        x = batch.cuda(non_blocking=True)[:, :, :32, :32]
        y = torch.nn.functional.dropout(x, 0.5, training=True)
        y = torch.cat([y, x.transpose(2, 3), x.flip(3)], 1)
        y = y.gather(2, index.repeat(1, 3, 1, 1)).scatter_add(2, index, x).tril()
        return torch.nn.functional.dropout(y.index_select(0, index[0, 0, 0, :16]).cumsum(1).permute(0, 2, 3, 1), 0.1, training=True)

    def seconds(what):
        torch.cuda.synchronize()
        begin = time.monotonic()
        for _ in range(20):
            what()
        torch.cuda.synchronize()
        return time.monotonic() - begin

    step()
    copies, steps = seconds(lambda: batch.cuda(non_blocking=True)), seconds(step)
    assert steps < 5 * copies + 0.5, f"{steps} s, the copies alone {copies} s"


def spans():
    torch.cuda.nvtx.range_push("span")
    value = torch.ones(10, device="cuda").sum().item()
    torch.cuda.nvtx.range_pop()
    return value


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    options = {"batch_size": 16, "pin_memory": True}
    case("loader with pinned memory")(lambda: train(torch.utils.data.DataLoader(Numbers(), **options)))
    case("loader with forked workers")(lambda: train(torch.utils.data.DataLoader(Numbers(), num_workers=2, **options)))
    case("loader with spawned workers that stay")(
        lambda: train(torch.utils.data.DataLoader(Numbers(), num_workers=2, persistent_workers=True, multiprocessing_context="spawn", **options)))
    case("two spawned processes on one GPU")(lambda: spawned(2))
    case("checkpoint saved and loaded")(checkpoint)
    case("launches beside a pinned batch")(beside_a_pinned_batch)
    case("nvtx")(spans)
    case("profiler")(profiled)
