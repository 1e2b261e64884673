_base_ = './bases/simple.py'
item1 = [3]
item2 = dict(b=1)
new = None
