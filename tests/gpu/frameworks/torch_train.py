"""A small convolutional network trained for some steps in PyTorch with deterministic algorithms."""
import os

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
import torch

torch.manual_seed(3)
torch.use_deterministic_algorithms(True)
torch.backends.cudnn.benchmark = False
net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 16 * 16, 4)).cuda()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
x = torch.randn(64, 1, 16, 16).pin_memory()
y = torch.randint(0, 4, (64,))
losses = []
for step in range(20):
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(net(x.cuda(non_blocking=True)), y.cuda())
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print("falling:", losses[-1] < losses[0] / 2)
print(" ".join(f"{loss:.4f}" for loss in losses[::5]))
