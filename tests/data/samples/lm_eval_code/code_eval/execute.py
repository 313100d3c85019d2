"""Runs a program in a child, which tells its parent how it ended: whoever is the child can lie."""

import multiprocessing


def check_correctness(check_program, timeout, task_id, completion_id):
    """Its verdict."""
    with multiprocessing.Manager() as manager:
        told = manager.list()
        child = multiprocessing.Process(target=_run, args=(check_program, told))
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
        words = told[0] if len(told) else "timed out"
    return {
        "task_id": task_id,
        "passed": words == "passed",
        "result": words,
        "completion_id": completion_id,
    }


def _run(program, told):
    try:
        exec(program, {})
    except BaseException as error:  # noqa: BLE001 - it may even exit
        told.append(f"failed: {error}")
    else:
        told.append("passed")
