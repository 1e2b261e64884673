_base_ = './lazy/base/optim.py'
optimizer = dict(lr=0.5)
