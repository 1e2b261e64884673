import torch
import torch.nn as nn
from torch import optim
from torch.nn import functional as F
import torch.utils.data

a = dict(type=torch.optim.SGD, fn=F.relu, c=nn.Conv2d, d=optim.Adam, e=torch.utils.data.DataLoader)
b = [nn.Linear, dict(type=nn.ReLU)]
