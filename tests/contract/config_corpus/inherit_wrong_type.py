_base_ = './bases/simple.py'
item1 = dict(a=1)
