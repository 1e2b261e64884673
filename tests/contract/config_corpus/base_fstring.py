_base_ = f'./bases/{"simple"}.py'
b = 1
