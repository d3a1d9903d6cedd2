"""PyTorch over one of the allocators that PYTORCH_CUDA_ALLOC_CONF chooses: blocks that grow, shrink and come back."""

import torch
from cases import case

MIB = 1 << 20


@case("the allocator in use")
def chosen():
    return torch.cuda.get_allocator_backend()


@case("blocks of many sizes")
def sizes():
    torch.manual_seed(1)
    kept, sum_of = [], 0
    for i in range(200):
        count = int(torch.randint(1, 2 * MIB, ()))
        kept.append(torch.full((count,), float(i % 17), device="cuda"))
        if i % 3 == 2:
            kept.pop(int(torch.randint(0, len(kept), ())))
    for block in kept:
        sum_of += int(block[0]) + int(block[-1])
        assert block.min() == block.max()
    return sum_of, len(kept)


@case("growing and shrinking")
def growing():
    seen = []
    for size in (64, 256, 1024, 128):
        x = torch.ones(size * MIB // 4, device="cuda")
        seen.append(x.sum().item())
        del x
        torch.cuda.empty_cache()
    return seen


@case("streams share blocks")
def streams():
    side = torch.cuda.Stream()
    total = torch.zeros(1000, device="cuda")
    for i in range(50):
        x = torch.full((1000,), float(i), device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            total += x
        x.record_stream(side)
        del x
    torch.cuda.synchronize()
    assert (total == 1225).all()
    return total


@case("training")
def training():
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1)).cuda()
    optimizer = torch.optim.Adam(net.parameters())
    x = torch.randn(256, 64).cuda()
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses
