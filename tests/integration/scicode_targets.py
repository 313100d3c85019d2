"""Writes targets for tests/data/samples/scicode as `test_data.h5` holds its own: run by the Python that
has h5py, with the file to write as its argument. The numbers are written down here, not computed by
the solutions that they judge.
"""

import sys

import h5py
import numpy as np


def main() -> None:
    """One group per test; see `process_hdf5_to_tuple` for what stands for what."""
    with h5py.File(sys.argv[1], "w") as file:
        file["901.1/test1/var1"] = 1.5
        file["901.1/test2/var1"] = np.array([0.0, 2.0, 4.0, 6.0])
        file["901.2/test1/var1"] = 6.0
        file["901.2/test1/var2"] = np.array([2.0, 2.0])
        file["901.2/test2/var1"] = "other"
        # Several members: a tuple, in the order of their names.
        file["901.2/test3/var1"] = "other"
        file["901.2/test3/var2"] = 3.0
        file["901.2/test3/var3"] = np.array([-1.0, 4.0])
        write_by_name(file, "901.3/test1/var1", 3.0, [1.0, 2.0])
        write_by_place(file, "901.3/test2/var1", [1.0, 2.0])
        write_by_symbol(file, "901.3/test3/var1", 3.0)
        write_by_name(file, "901.3/test4/var1", 12.0, [5.0, 7.0])
        write_by_place(file, "901.3/test4/var2", [5.0, 7.0])
        write_by_symbol(file, "901.3/test4/var3", 12.0)
        write_csr(file, "901.4/test1/var1/sparse_matrix", [1.0, 2.0])
        file["901.4/test1/var2"] = True
        write_coo(file, "901.4/test2/var1/sparse_matrix")
        write_bsr(file, "901.4/test3/var1/sparse_matrix")
        file["901.4/test4/var1/list/var1"] = np.array([0])
        file["901.4/test4/var1/list/var2"] = np.array([0, 1])
        file["902.1/test1/var1"] = 1
        file["902.2/test1/var1"] = -2.0
        file["902.2/test1/var2"] = -1.0


def write_by_name(file: h5py.File, name: str, total: float, diagonal: list[float]) -> None:
    """A dict with a number, a text and a sparse matrix."""
    write_csr(file, f"{name}/matrix/sparse_matrix", diagonal)
    file[f"{name}/total"] = total
    file[f"{name}/word"] = "positive"


def write_by_place(file: h5py.File, name: str, values: list[float]) -> None:
    """A dict whose keys are numbers."""
    for place, value in enumerate(values):
        file[f"{name}/{float(place)}"] = value


def write_by_symbol(file: h5py.File, name: str, total: float) -> None:
    """A dict that had sympy's symbols as a key and as a value."""
    file[f"{name}/t"] = total
    file[f"{name}/unit"] = "m"


def write_csr(file: h5py.File, name: str, diagonal: list[float]) -> None:
    """A diagonal matrix by rows."""
    n = len(diagonal)
    parts = {"data": diagonal, "shape": [n, n], "indices": range(n), "indptr": range(n + 1)}
    write(file, name, parts)


def write_coo(file: h5py.File, name: str) -> None:
    """diag(1, 2) by places."""
    write(file, name, {"data": [1.0, 2.0], "shape": [2, 2], "row": [0, 1], "col": [0, 1]})


def write_bsr(file: h5py.File, name: str) -> None:
    """diag(1, 2) by blocks of one element."""
    parts = {"data": [[[1.0]], [[2.0]]], "shape": [2, 2], "blocksize": [1, 1]}
    write(file, name, {**parts, "indices": [0, 1], "indptr": [0, 1, 2]})


def write(file: h5py.File, name: str, parts: dict[str, object]) -> None:
    """The members of a group."""
    for key, value in parts.items():
        file[f"{name}/{key}"] = np.asarray(value)


if __name__ == "__main__":
    main()
