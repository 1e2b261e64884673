custom_imports = dict(imports=['json'], allow_failed_imports=False)
