_base_ = ['./bases/simple.py']
model = dict(a=1)
model.update(b=2)
model['c'] = _base_.item1
item1 = _base_.item1 + [3]
