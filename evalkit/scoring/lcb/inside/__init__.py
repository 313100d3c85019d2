"""What runs in the sandbox beside the model's code: standard library only, any Python from 3.10 on.

It is placed in the program's working folder under the name `lcb_inside`, so its modules import each
other relatively. The supervisor is a process that the model's code can neither trace nor read; the
runner is the last code of ours in the process that becomes the model's.
"""
