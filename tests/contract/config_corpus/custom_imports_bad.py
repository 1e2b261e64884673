custom_imports = ['json']
