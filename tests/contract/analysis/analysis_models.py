"""Models whose figures are compared with those of MMEngine. Without mmx, so that both run them."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)) + x)


class Everything(nn.Module):
    """Every operator that is counted, shared and unused modules, parameters of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.layer = nn.Sequential(Block(8), Block(8))
        self.deconv = nn.ConvTranspose2d(8, 4, 2, 2)
        self.conv1 = nn.Conv2d(4, 4, 1, groups=2)
        self.norm = nn.GroupNorm(2, 4)
        self.inorm = nn.InstanceNorm2d(4, affine=True)
        self.fc = nn.Linear(4, 5)
        self.ln = nn.LayerNorm(5)
        self.shared = self.fc
        self.p = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.conv1(self.deconv(self.layer(self.stem(x))))
        x = F.interpolate(F.interpolate(x, scale_factor=2), scale_factor=2.0, mode="bilinear")
        x = self.inorm(self.norm(x))
        x = F.grid_sample(x, torch.zeros(x.shape[0], 4, 4, 2), align_corners=False)
        x = self.ln(self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)))
        x = x @ x.T @ x
        x = torch.einsum("ij,kj->ik", x, x)
        x = torch.einsum("nct,ncp->ntp", x[None], x[None])
        x = torch.einsum("ntg,ncg->nct", x, x)
        return torch.sigmoid(F.softmax(torch.bmm(x, x), -1)).sum()


class Chain(nn.Module):
    """Containers of one module, a module of two names, lists and dicts of modules."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = self.a
        self.list = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
        self.dict = nn.ModuleDict({"x": nn.Linear(2, 3)})

    def forward(self, x):
        return self.dict["x"](self.list[1](self.list[0](self.b(self.a(x)))))


class Shortcut(nn.Module):
    """Calls a module inside of another one directly."""

    def __init__(self):
        super().__init__()
        self.a = Block(8)
        self.b = nn.Identity()

    def forward(self, x):
        return self.a.conv(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1d = nn.Conv1d(8, 8, 3, padding=1)
        self.conv3d = nn.Conv3d(1, 2, 3)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        x = self.layer(self.conv1d(x.transpose(1, 2)).transpose(1, 2))
        x = torch.matmul(torch.softmax(torch.matmul(x, x.transpose(1, 2)), -1), x)
        y = torch.addmm(torch.zeros(8, 8), x[0, :8].T, x[0, :8])
        return self.conv3d(y.expand(1, 1, 8, 8, 8)).mean() + torch.mv(y, y[0]).mean()


CASES = {
    "everything": (Everything, (2, 3, 16, 16), False),
    "everything in training": (Everything, (2, 3, 16, 16), True),
    "chain": (Chain, (1, 2), False),
    "shortcut": (Shortcut, (1, 8, 4, 4), False),
    "attention": (Attention, (2, 8, 8), False),
}


def make(name):
    cls, shape, training = CASES[name]
    torch.manual_seed(0)
    return cls().train(training), torch.ones(shape)
