_base_ = './bases/simple.py'
a = {{_base_.nothing}}
