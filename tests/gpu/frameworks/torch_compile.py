"""torch.compile, with caches of its own, so that every run compiles. Tuning goes by the clock: results are judged by tolerance."""

import os
import tempfile

FOLDER = tempfile.TemporaryDirectory()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(FOLDER.name, "inductor")
os.environ["TRITON_CACHE_DIR"] = os.path.join(FOLDER.name, "triton")
import torch
from cases import case, close


def block():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.GELU(), torch.nn.LayerNorm(256), torch.nn.Linear(256, 16)).cuda()


def agrees(got, wanted):
    close(got.detach().cpu(), wanted.detach().cpu(), 2e-2)
    return "as without"


def main():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(2)).cuda()

    @case("a pointwise function, bit for bit")
    def pointwise():
        function = torch.compile(lambda v: (v * 2 + 1).relu())
        got = function(x)
        assert torch.equal(got, (x * 2 + 1).relu())
        return got

    @case("a network")
    def forward():
        net = block()
        return agrees(torch.compile(net)(x), net(x))

    @case("training steps")
    def training():
        plain, compiled = block(), block()
        losses = []
        for net, run in ((plain, plain), (compiled, torch.compile(compiled))):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
            for _ in range(10):
                optimizer.zero_grad()
                loss = run(x).square().mean()
                loss.backward()
                optimizer.step()
            losses.append(loss)
        return agrees(losses[1], losses[0])

    @case("mode reduce-overhead, with CUDA graphs")
    def graphs():
        net = block()
        run = torch.compile(net, mode="reduce-overhead")
        with torch.no_grad():
            for _ in range(5):
                got = run(x).clone()
        return agrees(got, net(x))

    @case("new shapes")
    def shapes():
        net = block()
        run = torch.compile(net, dynamic=True)
        return [agrees(run(x[:rows]), net(x[:rows])) for rows in (64, 17, 3)]

    @case("a reduction")
    def reduction():
        run = torch.compile(lambda v: torch.softmax(v, 1).sum(0))
        return agrees(run(x), torch.softmax(x, 1).sum(0))


if __name__ == "__main__":  # the compiler's worker processes import this file
    main()
