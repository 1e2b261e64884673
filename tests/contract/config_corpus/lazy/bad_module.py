from no_such_module_zzz import Thing

a = dict(type=Thing, n=1)
