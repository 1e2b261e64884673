from torch.optim import SGD

optimizer = dict(type=SGD)
