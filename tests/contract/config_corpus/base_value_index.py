_base_ = './bases/simple.py'
a = {{_base_.item5.x.z.1.p}}
