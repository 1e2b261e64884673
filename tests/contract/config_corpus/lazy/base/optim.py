from torch.optim import SGD

optimizer = dict(type=SGD, lr=0.1, momentum=0.9)
lrs = [1, 2]
_hidden = 5
