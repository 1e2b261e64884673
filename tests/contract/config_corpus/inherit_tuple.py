_base_ = ('./bases/simple.py', './bases/other.py')
