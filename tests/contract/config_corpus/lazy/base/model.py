from torch.nn import Conv2d, Linear

model = dict(
    type=Linear, in_features=4, layers=[dict(type=Conv2d, k=3), dict(type='Str')], norm=None)
