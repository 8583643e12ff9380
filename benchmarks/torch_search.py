"""The search as one would write it in PyTorch without further thought: the named baseline.

Batched over the population; the network's convolutions run; smoothing is `avg_pool2d`, repeated;
every child computes its parents' deviations. Channels first, as PyTorch has it.
Letters: P parents, C children; representations are [P or C, c, h, w], logits [.., classes].
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """conv 3x3, max-pool 2x2, BatchNorm, GELU, conv 3x3, BatchNorm, GELU."""

    def __init__(self, in_channels: int, channels: int, normalized: bool):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.GELU(),
        )
        self.normalized = normalized

    def forward(self, x):
        x = self.layers(x)
        return normalize(x) if self.normalized else x


def make_stages(channels: int, width: int, side: int, classes: int, normalized: bool):
    """Stem and three blocks and head, with BatchNorm frozen, as a list of modules."""
    stem = nn.Sequential(nn.Conv2d(channels, 8 * channels, 2), nn.GELU())
    blocks = [Block(c, width, normalized) for c in (8 * channels, width, width)]
    head = nn.Sequential(
        nn.Flatten(), nn.Linear(((side - 1) // 8) ** 2 * width, classes, bias=False)
    )
    stages = [nn.Sequential(stem, blocks[0]), *blocks[1:], head]
    return [stage.eval() for stage in stages]


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over everything but the first axis."""
    axes = tuple(range(1, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)


def reproduce(parents, num_children: int, strength: float, passes: int, rescale: torch.Tensor):
    """Children [C, ...] of random pairs of parents [P, ...]."""
    pairs = torch.randint(len(parents), (num_children, 2))
    mothers, fathers = parents[pairs[:, 0]], parents[pairs[:, 1]]
    child = (mothers + fathers) / 2
    axes = (2, 3) if parents.ndim == 4 else 1
    sigma = (
        mothers.std(axes, correction=0, keepdim=True)
        + fathers.std(axes, correction=0, keepdim=True)
    ) / 2
    noise = torch.randn_like(child) * (strength * sigma)
    for _ in range(passes):
        noise = F.avg_pool2d(noise, 3, stride=1, padding=1)
    child = child + noise / rescale
    if parents.ndim == 2:
        return child - child.mean(1, keepdim=True)
    return normalize(child)


def smoothed_deviation(side: int, passes: int) -> torch.Tensor:
    """Standard deviation of white noise after smoothing, [side, side] in float32."""
    unit = torch.eye(side * side).reshape(side * side, 1, side, side)
    for _ in range(passes):
        unit = F.avg_pool2d(unit, 3, stride=1, padding=1)
    return unit.square().sum(0)[0].sqrt()


@torch.inference_mode()
def fitness_of(stages, candidates, label: int) -> torch.Tensor:
    """Log-likelihood [n] of the label after the remaining stages."""
    for stage in stages:
        candidates = stage(candidates)
    return F.log_softmax(candidates, dim=1)[:, label]


@torch.inference_mode()
def evolve(stages, parents, fitness, label: int, config, layer, generations: int):
    """Parents [k, ...] and their fitness [k] after some generations of one layer."""
    rescale = torch.ones(())
    if config.smoothing == "noise_rescaled" and layer.smoothing_passes:
        rescale = smoothed_deviation(parents.shape[-1], layer.smoothing_passes)
    alpha, passes = layer.mutation_strength, layer.smoothing_passes
    for _ in range(generations):
        boosted = alpha * layer.exploration_boost
        explorers = reproduce(parents, config.num_explorers, boosted, passes, rescale)
        pool = torch.cat([parents, explorers])
        refiners = reproduce(pool, config.num_refiners, alpha, passes, rescale)
        children = torch.cat([explorers, refiners])
        everyone = torch.cat([parents, children])
        everything = torch.cat([fitness, fitness_of(stages, children, label)])
        fitness, order = everything.topk(config.num_parents)
        parents = everyone[order]
    return parents, fitness
