"""Hypothesis strategies for journal records."""

from __future__ import annotations

from hypothesis import strategies as st

from evalkit.store.records import (
    CallRecord,
    Continuation,
    Outcome,
    PartialRecord,
    Reply,
    StepRecord,
    Timing,
    UnitRecord,
    Usage,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
counts = st.integers(0, 2**53)
seconds = st.floats(0, 1e10, allow_nan=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | seconds | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)
outcomes = st.sampled_from(Outcome)
usages = st.builds(Usage, *[st.none() | counts] * 3)
replies = st.builds(
    Reply,
    outcome=outcomes,
    content=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(json_objects, max_size=2).map(tuple),
    finish_reason=st.none() | texts,
    usage=usages,
    logprobs=st.none() | json_objects,
    detail=st.none() | texts,
)
continuations = st.lists(st.builds(Continuation, counts, st.none() | counts), max_size=3).map(tuple)
token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple)
timings = st.builds(Timing, seconds, seconds, st.integers(0, 100))
calls = st.builds(
    CallRecord,
    sample=counts,
    repeat=counts,
    call=st.integers(0, 1000),
    request=texts,
    reply=replies,
    timing=timings,
    server=st.integers(0, 9),
    continued=continuations,
)
partials = st.builds(
    PartialRecord,
    sample=counts,
    repeat=counts,
    call=st.integers(0, 1000),
    request=texts,
    start=counts,
    tokens=token_ids,
    prompt=token_ids,
    continued=continuations,
    elapsed_s=seconds,
    finish_reason=st.none() | texts,
    stuck=st.integers(0, 9),
    begun=st.integers(0, 9),
)
steps = st.builds(
    StepRecord,
    sample=counts,
    repeat=counts,
    step=st.integers(0, 1000),
    digest=texts,
    name=texts,
    result=json_values,
    started=seconds,
    seconds=seconds,
    arguments=json_values,
)
units = st.builds(
    UnitRecord,
    sample=counts,
    repeat=counts,
    outcome=outcomes,
    text=texts,
    data=json_values,
    calls=st.integers(0, 1000),
    unanswered=st.lists(counts, max_size=3).map(tuple),
    relayed=st.lists(counts, max_size=3).map(tuple),
    steps=st.integers(0, 1000),
    undone=st.lists(counts, max_size=3).map(tuple),
    detail=st.none() | texts,
    kind=st.none() | texts,
)
records = calls | steps | units | partials
