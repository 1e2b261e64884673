_base_ = './bases/simple.py'


def f():
    return _base_.item1 + [len(_base_.item4)]


a = f()
b = {k: v for k, v in _base_.item2.items()}
