_base_ = './bases/simple.py'
item2 = 3
item5 = [1]
