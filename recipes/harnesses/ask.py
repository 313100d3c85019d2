"""A program that knows nothing of evalkit: asks an OpenAI-compatible endpoint, and writes what came of it.

python ask.py MODEL SHARD SHARDS [LIMIT]
"""

import json
import sys
from pathlib import Path

from openai import OpenAI

model, shard, shards = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
limit = int(sys.argv[4]) if len(sys.argv) > 4 else 20
client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY are set
lines = []
for number in range(limit)[shard::shards]:
    question = f"What is {number} + {number}?"
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}]
    )
    said = reply.choices[0].message.content or ""
    right = f"boxed{{{2 * number}}}" in said
    lines.append({"id": f"double-{number}", "question": question, "said": said, "right": right})
Path("answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
