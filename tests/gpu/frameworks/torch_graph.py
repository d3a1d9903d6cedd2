"""CUDA graphs, streams and events in PyTorch."""
import torch

torch.manual_seed(5)
net = torch.nn.Linear(64, 64).cuda()
x = torch.ones(8, 64, device="cuda")
with torch.no_grad():
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            y = net(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = net(x)
    good = True
    for i in range(20):
        x.fill_(i)
        graph.replay()
        good &= torch.equal(y, net(torch.full((8, 64), float(i), device="cuda")))
start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
start.record()
z = x @ x.T
stop.record()
stop.synchronize()
print("replays right:", good, "time measured:", start.elapsed_time(stop) >= 0)
