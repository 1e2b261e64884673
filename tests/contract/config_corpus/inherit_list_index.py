_base_ = './bases/simple.py'
item1 = {'0': 5}
