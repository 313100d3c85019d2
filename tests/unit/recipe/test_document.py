"""Layers and what a layer over another gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evalkit.recipe.document import Document, dotted, get, merge, nested, walk

LEAF = st.integers(0, 3)
# Every value of one key has the same kind: then merging is associative.
LAYER = st.fixed_dictionaries(
    {},
    optional={
        "a": LEAF,
        "b": st.dictionaries(st.sampled_from("xyz"), LEAF),
        "c": st.dictionaries(st.sampled_from("xy"), st.dictionaries(st.sampled_from("pq"), LEAF)),
    },
)


@given(LAYER, LAYER, LAYER)
def test_merge_is_associative(a: object, b: object, c: object) -> None:
    """Layers may be grouped in any way as long as mappings meet mappings."""
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(LAYER, LAYER)
def test_merge_keeps_both(a: dict[str, object], b: dict[str, object]) -> None:
    """Nothing given is lost, and the upper layer wins at every leaf."""
    merged = merge(a, b)
    assert set(walk(merged)) == set(walk(a)) | set(walk(b))
    for path in walk(b):
        if not isinstance(get(b, path), dict):
            assert get(merged, path) == get(b, path)


@given(LAYER)
def test_merge_identity(a: object) -> None:
    """An empty layer changes nothing, above or below."""
    assert merge(a, {}) == a == merge({}, a)


def test_lists_and_nulls_replace() -> None:
    """Lists and scalars replace, and null is a value like any other."""
    assert merge({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": None}) == {"a": [3], "b": None}


def test_other_kind_replaces_serving() -> None:
    """Keys of two kinds of serving never mix; the recipe's serving is vllm by default."""
    base = {"serving": {"max_num_seqs": 4}}
    other = {"serving": {"kind": "external", "base_url": "http://x"}}
    assert merge(base, other) == other
    assert merge(base, {"serving": {"kind": "vllm"}})["serving"] == {
        "max_num_seqs": 4,
        "kind": "vllm",
    }


def test_serving_elsewhere_is_a_plain_mapping() -> None:
    """A benchmark's parameter called `serving` has no kinds."""
    base = {"tasks": {"a": {"params": {"serving": {"kind": "x", "p": 1}}}}}
    over = {"tasks": {"a": {"params": {"serving": {"kind": "y"}}}}}
    assert merge(base, over)["tasks"]["a"]["params"]["serving"] == {"kind": "y", "p": 1}


def test_other_source_replaces_model_source() -> None:
    """Another source of a model takes the old one and its revision away, and nothing else."""
    base = {"models": {"m": {"hub": "o/n", "revision": "1", "serving": {"dtype": "auto"}}}}
    merged = merge(base, {"models": {"m": {"path": "x"}}})
    assert merged == {"models": {"m": {"path": "x", "serving": {"dtype": "auto"}}}}


def test_over_keeps_places() -> None:
    """A key has the place of the layer that won; a mapping the place where it began."""
    base = Document({"a": {"x": 1, "y": 1}}, {("a",): "b:1", ("a", "x"): "b:2", ("a", "y"): "b:3"})
    over = Document({"a": {"y": 2}}, {("a",): "o:1", ("a", "y"): "o:2"})
    merged = over.over(base)
    assert merged.sources == {("a",): "b:1", ("a", "x"): "b:2", ("a", "y"): "o:2"}
    assert merged.where(("a", "y", "deeper")) == "o:2"
    assert merged.where(("z",)) is None


def test_selecting_layer() -> None:
    """A layer that selects leaves no other names of the layer below."""
    base = Document({"tasks": {"a": {"limit": 1}, "b": {}}})
    over = Document({"tasks": {"a": {}, "c": {}}}, {}, frozenset({"tasks"}))
    assert over.over(base).data == {"tasks": {"a": {"limit": 1}, "c": {}}}
    assert over.over(Document({"tasks": None})).data == {"tasks": {"a": {}, "c": {}}}


def test_paths() -> None:
    """Paths go through mappings and lists and are written with dots."""
    data = {"a": [{"b": 5}]}
    assert list(walk(data)) == [("a",), ("a", 0), ("a", 0, "b")]
    assert get(data, ("a", 0, "b")) == 5
    assert get(data, ("a", 3)) is None
    assert nested(("a", "b"), 1) == {"a": {"b": 1}}
    assert dotted(("a", 0, "b")) == "a.0.b"
