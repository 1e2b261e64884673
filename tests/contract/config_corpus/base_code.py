x = './bases/simple.py'
_base_ = x
