"""A task of inspect_ai: what are two numbers together?"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate


@task
def sums(n: int = 20) -> Task:
    """`n` sums; the boxed number counts."""
    pairs = [(7 * i % 90, 11 * i % 90) for i in range(1, n + 1)]
    samples = [
        Sample(id=f"{a}+{b}", input=f"What is {a} + {b}?", target=str(a + b)) for a, b in pairs
    ]
    return Task(
        dataset=MemoryDataset(samples, name="sums"),
        solver=generate(),
        scorer=pattern(r"boxed\{(\d+)\}"),
    )
