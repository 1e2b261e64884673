import torch
_base_ = './bases/simple.py'
x = torch.optim.SGD.__name__
