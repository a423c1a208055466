"""A network that tests put adapters around."""

import torch
from torch import nn


class Net(nn.Module):
    """A convolution over time and two projections."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.inner = nn.Linear(8, 8)
        self.outer = nn.Linear(8, 5)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(torch.tanh(self.conv(x)).mT)))
