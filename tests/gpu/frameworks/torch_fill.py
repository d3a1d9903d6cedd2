"""Trains a network in as much GPU memory as there is: fills what training leaves with ballast, says so, waits for a line on
standard input, trains on, and asks for more than there can be. Driven by partitions.py, which runs several at once."""

import json
import sys

import torch

MIB = 1 << 20
SLACK = 256 * MIB  # for what a step needs beyond what the first ones have cached

torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, stride=2), torch.nn.ReLU(),
                          torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)).cuda()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
x, y = torch.randn(64, 3, 64, 64).cuda(), torch.randint(0, 10, (64,)).cuda()


def train(steps):
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


first = train(10)
ballast = []
while torch.cuda.mem_get_info()[0] > 2 * SLACK:
    ballast.append(torch.empty(min(1024 * MIB, torch.cuda.mem_get_info()[0] - SLACK) // 2 * 2, dtype=torch.uint8, device="cuda").fill_(7))
free, total = torch.cuda.mem_get_info()
print(json.dumps({"free": free, "total": total}), flush=True)
sys.stdin.readline()
last = train(40)  # all partitions are full now
untouched = all(int(block[0]) == 7 == int(block[-1]) for block in ballast)
try:
    torch.empty(2 * SLACK + 1024 * MIB, dtype=torch.uint8, device="cuda")
    beyond = "allocated"
except torch.cuda.OutOfMemoryError:
    beyond = "OutOfMemoryError"
print(json.dumps({"falls": last < first, "untouched": untouched, "beyond": beyond}), flush=True)
