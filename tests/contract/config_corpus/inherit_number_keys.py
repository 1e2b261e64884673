_base_ = './bases/simple.py'
item5 = dict(x={'z': {'0': 1}})
