"""What SciCode's tests call: targets out of `test_data.h5`, and comparisons of nested values.

Stands as text between a solution and its tests, in one namespace with both. So it takes few names,
and `h5py` and `scipy` are to be found there, as tests expect.
"""

import h5py
import scipy
import scipy.sparse

TARGETS_FILE = "test_data.h5"


def process_hdf5_to_tuple(step_id, test_num):
    """The targets of a step's tests, in order. Raises FileNotFoundError for one that is missing."""
    targets = []
    # Nobody writes to it, and some network file systems have no locks.
    with h5py.File(TARGETS_FILE, "r", locking=False) as file:
        for number in range(1, test_num + 1):
            name = f"{step_id}/test{number}"
            if not isinstance(file.get(name), h5py.Group):
                raise FileNotFoundError(f"{name} is not in {TARGETS_FILE}")
            values = tuple(_hdf5_value(member) for member in file[name].values())
            targets.append(values[0] if len(values) == 1 else values)
    return targets


def _hdf5_value(member):
    """A data set's value, or what a group stands for."""
    if isinstance(member, h5py.Group):
        return _hdf5_group(member)
    return _hdf5_plain(member[()])


def _hdf5_plain(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _hdf5_group(group):
    """A list, a sparse matrix or a dict, by the first name in it; None where there is none."""
    first = next(iter(group), None)
    if first is None:
        return None
    if first == "list":
        return [member[()] for member in group["list"].values()]
    if first == "sparse_matrix":
        return _hdf5_sparse(group["sparse_matrix"])
    return dict(_hdf5_entry(key, member) for key, member in group.items())


def _hdf5_entry(key, member):
    """Of a dict. Keys are names in a file: those that are numbers were numbers, but for texts."""
    if isinstance(member, h5py.Group):
        return key, _hdf5_sparse(member["sparse_matrix"])
    value = member[()]
    if isinstance(value, bytes):
        return key, _hdf5_plain(value)
    try:
        return float(key), value
    except ValueError:
        return key, value


def _hdf5_sparse(group):
    data, shape = group["data"][()], tuple(group["shape"][()])
    if "row" in group and "col" in group:
        places = (group["row"][()], group["col"][()])
        return scipy.sparse.coo_matrix((data, places), shape=shape)
    parts = (data, group["indices"][()], group["indptr"][()])
    if "blocksize" in group:
        blocks = tuple(group["blocksize"][()])
        return scipy.sparse.bsr_matrix(parts, shape=shape, blocksize=blocks)
    return scipy.sparse.csr_matrix(parts, shape=shape)


def cmp_tuple_or_list(var1, var2):
    """Whether two sequences are equal, element by element, as far as numbers can be."""
    if len(var1) != len(var2):
        return False
    return all(_is_element_close(one, other) for one, other in zip(var1, var2, strict=True))


def _is_element_close(one, other):
    if isinstance(one, dict):
        return are_dicts_close(one, other)
    if isinstance(one, (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix)):
        return _is_close(one.toarray(), other.toarray())
    if isinstance(one, bool):
        return bool(one == other)
    return _is_close(one, other)


def are_dicts_close(dict1, dict2, atol=1e-8, rtol=1e-5):
    """Whether two dicts have the same keys, and values that are close."""
    one, other = _without_symbols(dict1), _without_symbols(dict2)
    if one.keys() != other.keys():
        return False
    return all(_is_value_close(one[key], other[key], atol=atol, rtol=rtol) for key in one)


def _is_value_close(one, other, **tolerance):
    import sympy

    if isinstance(one, (sympy.Symbol, str)):
        return bool(one == other)
    sparse = scipy.sparse
    if isinstance(
        one, (sparse.csr_matrix, sparse.csc_matrix, sparse.bsr_matrix, sparse.coo_matrix)
    ):
        return _is_close(one.toarray(), other.toarray(), **tolerance)
    return _is_close(one, other, **tolerance)


def _is_close(one, other, **tolerance):
    import numpy

    try:
        return bool(numpy.allclose(one, other, **tolerance))
    except ValueError:
        return bool(one == other)


def _without_symbols(mapping):
    """Symbols as texts, as they were stored; the value of a key that is one stays as it is, which
    is how the published scores were made."""
    import sympy

    changed = {}
    for key, value in mapping.items():
        if isinstance(key, sympy.Symbol):
            changed[str(key)] = value
        else:
            changed[key] = str(value) if isinstance(value, sympy.Symbol) else value
    return changed
