"""A step of learning from searched targets, as one would write it in PyTorch: the baseline."""

import torch
from torch import nn
from torch.nn import functional as F


def conv_group(in_channels: int, channels: int, pool: bool) -> nn.Sequential:
    """conv 3x3, max-pool, BatchNorm, GELU, conv 3x3, BatchNorm, GELU; no scales."""
    layers = [
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        norm(channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        norm(channels),
        nn.GELU(),
    ]
    return nn.Sequential(*layers)


def norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm whose scale stays at 1."""
    layer = nn.BatchNorm2d(channels, eps=1e-5)
    layer.weight.requires_grad_(False)
    return layer


class Network(nn.Module):
    """Frozen stem, three blocks of `groups` ConvGroups, linear head without bias."""

    def __init__(self, channels: int, width: int, side: int, classes: int, groups: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8 * channels, 2)
        self.stem.weight.requires_grad_(False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(conv_group(width if g else before, width, g == 0) for g in range(groups))
            )
            for before in (8 * channels, width, width)
        )
        self.head = nn.Linear(((side - 1) // 8) ** 2 * width, classes, bias=False)

    def forward(self, x):
        """The blocks' outputs, and the logits, which give the body no gradient."""
        x = F.gelu(self.stem(x))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs, self.head(x.detach().flatten(1))


def make_step(
    network: Network,
    learning_rate: float = 0.05,
    head_weight: float = 0.03,
    autocast: bool = False,
):
    """A function of images and targets that does one step and returns the loss."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.85, nesterov=True)
    network.train()

    def step(images, targets, target_logits):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, logits = network(images)
        errors = [F.mse_loss(x.float(), t) for x, t in zip(outputs, targets, strict=True)]
        loss = sum(errors) / len(errors)
        divergence = F.kl_div(
            F.log_softmax(logits.float(), 1),
            F.log_softmax(target_logits, 1),
            reduction="batchmean",
            log_target=True,
        )
        loss = loss + head_weight * divergence
        loss.backward()
        optimizer.step()
        return loss

    return step
