"""A matrix product with autograd in PyTorch; small integers, so that every sum is exact on any device and in any order."""
import torch

torch.manual_seed(1)
a = torch.randint(-3, 4, (256, 256)).float().cuda().requires_grad_()
b = torch.randint(-3, 4, (256, 256)).float().cuda().requires_grad_()
c = (a @ b).relu()
c.sum().backward()
print("sum", c.sum().item(), "gradients", a.grad.sum().item(), b.grad.abs().sum().item())
host = (a.detach().cpu() @ b.detach().cpu()).relu()
print("as on the CPU:", torch.equal(c.detach().cpu(), host))
half = (a.detach().half() @ b.detach().half()).float()
print("half:", torch.equal(half.relu().cpu(), host))
print("memory:", torch.cuda.memory_allocated() > 0, "devices:", torch.cuda.device_count() >= 1)
