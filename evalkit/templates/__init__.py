"""What `evalkit new` writes: a benchmark and a harness as packages of their own, with their tests.

`$name` and its like are filled in, in texts and in names of files (`__name__`); `.tmpl` falls away.
"""
