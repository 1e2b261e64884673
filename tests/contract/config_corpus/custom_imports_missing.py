custom_imports = dict(imports=['no_such_module_zzz'], allow_failed_imports=False)
