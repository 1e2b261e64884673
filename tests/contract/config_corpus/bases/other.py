other = dict(type='Other', depth=3)
numbers = (1, 2.5, -3, 1e-3)
