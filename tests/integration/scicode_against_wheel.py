"""Compares SciCode's helpers with the functions of the wheel `nvidia-scicode` on random values.

Run by the Python that has h5py, with the helpers, the wheel's folder, a file to write and a number of
rounds as arguments. Prints what differs, and how often which answers were given.
"""

import contextlib
import io
import json
import random
import sys
import warnings
from collections import Counter
from itertools import starmap
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse
import sympy

FORMATS = (
    scipy.sparse.csr_matrix,
    scipy.sparse.csc_matrix,
    scipy.sparse.coo_matrix,
    lambda dense: scipy.sparse.bsr_matrix(dense, blocksize=(1, 1)),
)
N_TESTS = 3


class Values:
    """Random values of the kinds that the tests compare."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def number(self, most):
        return self._random.randint(0, most)

    def one_of(self, *makers):
        return self._random.choice(makers)()

    def array(self):
        return np.array(self._random.choices([0, 1, 2, 3, -1.5], k=1 + self.number(3)))

    def sparse(self):
        return self._random.choice(FORMATS)(np.diag(self.array()))

    def leaf(self):
        plain = self._random.choice([0.0, 1.0, 2.5, 1, 2, "a", "é", True, False, 1 + 2j])
        return self.one_of(lambda: plain, self.array, lambda: np.bool_(True))

    def key(self):
        plain = self._random.choice(["k0", "k1", "k2", "0.0", "1.0", "nan", "1e3"])
        return self.one_of(lambda: plain, lambda: sympy.Symbol(f"s{self.number(2)}"))

    def mapping(self):
        kinds = (self.leaf, self.sparse, lambda: sympy.Symbol("z"), lambda: [1.0, 2.0])
        return {self.key(): self.one_of(*kinds) for _ in range(self.number(4))}

    def ragged(self):
        return [np.arange(self.number(3)) for _ in range(1 + self.number(2))]

    def any(self):
        return self.one_of(self.leaf, self.leaf, self.sparse, self.mapping, self.ragged)


def same(one, other):
    """Equal in type, order and value."""
    if type(one) is not type(other):
        return False
    if scipy.sparse.issparse(one):
        return one.format == other.format and np.array_equal(one.toarray(), other.toarray())
    if isinstance(one, dict):
        keys = [[repr(key) for key in each] for each in (one, other)]
        return keys[0] == keys[1] and same([*one.values()], [*other.values()])
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(starmap(same, zip(one, other, strict=True)))
    return bool(np.array_equal(one, other))


def answer(function, *arguments):
    """True, False or the name of the exception."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return str(bool(function(*arguments)))
        except Exception as error:  # noqa: BLE001 - whichever it is, both must raise it
            return type(error).__name__


def write(path, values, save):
    """A file with random targets as the authors write it; returns them by test."""
    written = []
    with h5py.File(path, "w") as file:
        for number in range(1, N_TESTS + 1):
            group, kept = file.create_group(f"9.1/test{number}"), []
            for member in range(values.number(3)):
                value = values.any()
                try:
                    save(f"var{member}", value, group)
                    kept.append(value)
                except (TypeError, ValueError):  # two of its keys have one text
                    group.pop(f"var{member}", None)
            written.append(kept)
    return written


def main():
    helpers, wheel, path, rounds = sys.argv[1:]
    sys.path.insert(0, wheel)
    warnings.simplefilter("ignore")
    from scicode.compare import cmp
    from scicode.parse import parse

    ours = {}
    exec(compile(Path(helpers).read_text(), helpers, "exec"), ours)
    ours["TARGETS_FILE"] = path
    values, differing, answers = Values(0), [], Counter()

    def compare(name, one, other):
        theirs = answer(getattr(cmp, name), one, other)
        mine = answer(ours[name], one, other)
        answers[f"{name} {theirs}"] += 1
        if theirs != mine:
            differing.append(f"{name}({one!r}, {other!r}): {theirs}, ours {mine}")

    for _ in range(int(rounds)):
        written = write(path, values, parse.save_data_to_hdf5)
        theirs = parse.process_hdf5_to_tuple("9.1", N_TESTS, path)
        mine = ours["process_hdf5_to_tuple"]("9.1", N_TESTS)
        if not same(theirs, mine):
            differing.append(f"read {theirs!r}, ours {mine!r}")
        for kept, target in zip(written, mine, strict=True):
            compare("cmp_tuple_or_list", kept, target if isinstance(target, tuple) else (target,))
            compare("cmp_tuple_or_list", kept, [values.any() for _ in kept])
        mapping = values.mapping()
        as_read = {str(key): value for key, value in mapping.items()}
        for other in (mapping, as_read, values.mapping()):
            compare("are_dicts_close", mapping, other)
    print(json.dumps({"differing": differing, "answers": answers}))


if __name__ == "__main__":
    main()
