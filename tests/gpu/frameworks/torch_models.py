"""Fifty deterministic training steps of a model in every precision: torch_models.py MODEL ... Prints each loss, bit for bit."""

import math
import sys

import torch
from cases import case

STEPS = 50
BATCH = 4


def vision(name):
    import torchvision

    size, options = (96, {"aux_logits": False, "init_weights": False}) if name == "inception_v3" else (64, {})
    net = getattr(torchvision.models, name)(weights=None, num_classes=10, **options).cuda()
    images = torch.randn(BATCH, 3, size, size).pin_memory()
    labels = torch.randint(0, 10, (BATCH,)).pin_memory()
    return net, lambda: torch.nn.functional.cross_entropy(net(images.cuda(non_blocking=True)), labels.cuda(non_blocking=True))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=128, n_head=4, vocab_size=1000, n_positions=64, bos_token_id=0, eos_token_id=0)).cuda()
    tokens = torch.randint(0, 1000, (BATCH, 32)).cuda()
    return net, lambda: net(tokens, labels=tokens).loss


def bert():
    from transformers import BertConfig, BertForMaskedLM

    net = BertForMaskedLM(BertConfig(num_hidden_layers=3, hidden_size=128, num_attention_heads=4, intermediate_size=256, vocab_size=1000)).cuda()
    tokens = torch.randint(0, 1000, (BATCH, 32)).cuda()
    mask = torch.ones_like(tokens)
    mask[:, 24:] = 0
    return net, lambda: net(input_ids=tokens, attention_mask=mask, labels=tokens).loss


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    net = ViTForImageClassification(ViTConfig(num_hidden_layers=3, hidden_size=128, num_attention_heads=4, intermediate_size=256, image_size=64, num_labels=10)).cuda()
    images = torch.randn(BATCH, 3, 64, 64).cuda()
    labels = torch.randint(0, 10, (BATCH,)).cuda()
    return net, lambda: net(pixel_values=images, labels=labels).loss


MODELS = {"resnet50": lambda: vision("resnet50"), "inception_v3": lambda: vision("inception_v3"), "gpt2": gpt2, "bert": bert, "vit": vit}


def train(model, tf32, amp):
    torch.manual_seed(11)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    net, loss_of = MODELS[model]()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9) if model in ("resnet50", "inception_v3") else torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=amp is torch.float16)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=amp, enabled=amp is not None):
            loss = loss_of()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses), losses
    assert min(losses[-10:]) < losses[0], f"the loss does not fall: {losses}"
    return losses


torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = False
torch.backends.cuda.enable_mem_efficient_sdp(False)  # its gradient is not deterministic
torch.backends.cuda.enable_cudnn_sdp(False)
for model in sys.argv[1:]:
    case(f"{model} fp32")(lambda: train(model, False, None))
    case(f"{model} tf32")(lambda: train(model, True, None))
    case(f"{model} amp fp16")(lambda: train(model, False, torch.float16))
    case(f"{model} amp bf16")(lambda: train(model, False, torch.bfloat16))
