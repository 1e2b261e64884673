custom_imports = dict(imports='json')
