"""What runs within a sandbox: standard library only, any Python from 3.10 on, nothing of evalkit.

The folder is shown inside under another name, to an interpreter that may not have evalkit, so its
modules import each other relatively. The words:

- zygote: the one warm interpreter of a sandbox; it forks and otherwise touches nothing.
- keeper: the zygote's child for one channel; it reads the job, builds the enclosure, keeps the
  time and reports. The program never shares its PID namespace (or the keeper is PID 1 in it).
- enclosure: what is made afresh for a program and ended with it: namespaces and the scratch.
- child: the process the model's code runs in.
"""
