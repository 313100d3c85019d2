"""A program that asks a model and knows nothing of evalkit: `driven_program.py NUMBER CALLS`.

It asks the same three times, and as many other things, from threads that nobody orders; then what all of
that makes. What it was told goes into a file of its folder.
"""

import concurrent.futures
import json
import os
import random
import sys
import urllib.request


def ask(text: str) -> str:
    """One question."""
    body = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        f"{os.environ['URL']}/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {os.environ['KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        content: str = json.load(answer)["choices"][0]["message"]["content"]
        return content


def main() -> None:
    """Ask, and write what was said."""
    number, calls = sys.argv[1], int(sys.argv[2])
    texts = [f"driven {number}: the same?"] * 3
    texts += [f"driven {number}: what is part {i}?" for i in range(calls - 4)]
    random.shuffle(texts)
    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        said = sorted(zip(texts, pool.map(ask, texts), strict=True))
    with open("said.json", "w") as file:  # noqa: PTH123 - a program of nobody's style
        json.dump([*(told for _, told in said), ask(f"what do {said!r} make?")], file)


if __name__ == "__main__":
    main()
