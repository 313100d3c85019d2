"""What was made of lm-eval's files, kept until one of them is another.

A file here is never believed for its age: it holds the names, sizes and times of all files that it was made
from, as one hash, and is made anew where these differ. Where it cannot be written it is made each time.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

FORM = 1
"""Of the files here."""


def kept(folder, name, source, make):
    """`make()`, as JSON has it, or what it returned when the files below `source` were the same.

    `folder` may be null or without rights to write.
    """
    if folder is None:
        return make()
    place = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    path = Path(folder, f"{name}-{place}.json")
    state = _state(source)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_bytes())
        if found["state"] == state:
            return found["made"]
    made = json.loads(json.dumps(make()))
    with contextlib.suppress(OSError):
        _replace(path, json.dumps({"state": state, "made": made}))
    return made


def _replace(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _state(source):
    """Of all files that may be a task's, wherever Python put compiled ones beside them."""
    digest = hashlib.sha256(f"{FORM}".encode())
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            told = "nothing"  # as of a link to a file that is not there
            with contextlib.suppress(OSError):
                found = path.stat()
                told = f"{found.st_size}\0{found.st_mtime_ns}"
            digest.update(os.fsencode(f"{path}\0{told}\n"))
    return digest.hexdigest()


@contextlib.contextmanager
def quick_index(folder, source):
    """While this lasts, the index of lm-eval's own tasks (below `source`) comes from `folder`.

    Of a task the index tells where its file is. The file itself is read by lm-eval whenever it loads the task.
    """
    from lm_eval.tasks import TaskManager

    if hasattr(TaskManager, "load"):
        from lm_eval.tasks._index import TaskIndex

        owner, name, patched = TaskIndex, "build", _build
    else:  # an edition of before 0.4.10
        owner, name, patched = TaskManager, "_get_task_and_group", _get_task_and_group
    before = owner.__dict__[name]
    setattr(owner, name, patched(getattr(owner, name), folder, source))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _build(original, folder, source):
    from lm_eval.tasks._index import Entry, Kind

    def rows():
        found = original([source])
        return [
            [each.name, each.kind.name, each.yaml_path and str(each.yaml_path), sorted(each.tags)]
            for each in found.values()
        ]

    def build(paths, **more):
        index = {}
        for path in paths:
            if Path(path) != source:
                index |= original([path], **more)
                continue
            for name, kind, file, tags in kept(folder, "index", source, rows):
                index[name] = Entry(name, Kind[kind], file and Path(file), None, set(tags))
        return index

    return staticmethod(build)


def _get_task_and_group(original, folder, source):
    def get(self, path):
        if Path(path) != source:
            return original(self, path)
        return kept(folder, "index", source, lambda: original(self, path))

    return get
