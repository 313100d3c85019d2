"""A reply with reasoning and a tool call, for trying out whether a server reads replayed reasoning.

The reasoning stands in the turn that is still going on, between a call and its result: chat templates
that drop the reasoning of turns that are over keep it there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

REASONING = "The question can be answered with one call, so I make that call and read its result."
CALL_ID = "evalkit01"
"""Nine letters or digits: some chat templates insist on that."""


def thoughtful_reply(function: str, arguments: Mapping[str, Any]) -> Reply:
    """A model's answer that thinks and calls a function."""
    called = {"name": function, "arguments": json.dumps(arguments)}
    call = {"id": CALL_ID, "type": "function", "function": called}
    return Reply(Outcome.OK, "", reasoning=REASONING, tool_calls=(call,))
