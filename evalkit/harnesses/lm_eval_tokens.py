"""From texts to the token ids whose likelihood is asked, exactly as lm-eval's models for APIs split them.

The tokenizer is the one beside the weights (docs/adr/0030-likelihood-tokens.md). Special tokens are not
added, as lm-eval's `local-completions` does by default; where a text stands alone it follows the prefix
token: the beginning of a sentence, else its end.

Follows lm_eval 0.4.13 (MIT): `TemplateLM._encode_pair`, `TemplateAPI.batch_loglikelihood_requests`,
`utils.get_rolling_token_windows`, `utils.make_disjoint_window`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evalkit.errors import PlanError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalkit.benchmarks.contract import ServedModel

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
ROLLING_LENGTH = 2048
"""`max_length` of lm-eval's models for APIs."""
KNOWN_CONTEXTS = 64
"""Choices of one question follow each other and share its context."""
_NAME_IT = "Set params.tokenizer to a tokenizer.json, or to a folder that has one."


class Pair(NamedTuple):
    """Token ids: what is given, and what is asked about."""

    context: list[int]
    continuation: list[int]


class Tokens:
    """A model's tokenizer, and how lm-eval uses it."""

    def __init__(self, tokenizer: Any, prefix: int | None, where: Path) -> None:
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._where = where
        self._context = lru_cache(KNOWN_CONTEXTS)(self._encode)

    @classmethod
    def of(cls, folder: Path) -> Tokens:
        """Those of a folder with `tokenizer.json`. Raises PlanError."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise PlanError(
                "log-likelihoods need the package tokenizers",
                hint="Type: pip install 'evalkit[tokenizers]' (it comes with vLLM, too).",
            ) from error
        path = folder / FILE
        if not path.is_file():
            raise PlanError(f"log-likelihoods need a tokenizer: there is no {path}", hint=_NAME_IT)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise PlanError(f"{path} is no tokenizer: {error}", hint=_NAME_IT) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, _prefix_token(folder / CONFIG, tokenizer), path)

    def pair(self, context: str, continuation: str, max_length: int | None) -> Pair:
        """Split between the two texts; spaces at the end of the context belong to what follows."""
        if not context:
            return self._cut(self._alone(self._encode(continuation)), max_length)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        whole, given = self._encode(context + continuation), self._context(context)
        return self._cut(Pair(list(given), list(whole[len(given) :])), max_length)

    def windows(self, text: str, max_length: int | None) -> list[Pair]:
        """Windows of a text, each token asked about once, in order."""
        length = (max_length or ROLLING_LENGTH) - 2
        return list(_windows(list(self._encode(text)), self._prefix_token(), length))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _alone(self, tokens: Sequence[int]) -> Pair:
        prefix = self._prefix_token()
        if tokens and tokens[0] == prefix:
            return Pair([prefix], list(tokens[1:]))
        return Pair([prefix], list(tokens))

    def _prefix_token(self) -> int:
        if self._prefix is None:
            raise PlanError(
                f"a text without context follows the token of beginning or end, and {self._where} is "
                f"beside no {CONFIG} that names one",
                hint=_NAME_IT,
            )
        return self._prefix

    def _cut(self, pair: Pair, max_length: int | None) -> Pair:
        surplus = 0 if max_length is None else sum(map(len, pair)) - (max_length - 1)
        if surplus <= 0:
            return pair
        if surplus >= len(pair.context):
            raise PlanError(
                f"a continuation of {len(pair.continuation)} tokens leaves no room for its context "
                f"within params.max_length {max_length}",
                hint="Raise params.max_length, or leave it out.",
            )
        return Pair(pair.context[surplus:], pair.continuation)


def find_tokenizer(model: ServedModel, named: str | None) -> Path:
    """The folder whose tokenizer is the model's: `named` by the recipe, else beside its weights.

    Raises RecipeError for a hosted model without a name, PlanError where a hub's file cannot be had.
    """
    if named is not None:
        path = Path(named)
        return path.parent if path.name == FILE else path
    if model.kind == "hosted":
        raise RecipeError(
            f"log-likelihoods of the hosted model {model.source} need its tokenizer", hint=_NAME_IT
        )
    if model.kind == "folder":
        return Path(model.source)
    return _hub_folder(model)


def _hub_folder(model: ServedModel) -> Path:
    """From the local cache, or the hub where that can be reached."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise PlanError(
            f"the tokenizer of {model.source} is on the hub",
            hint=f"pip install 'evalkit[hub]'\n{_NAME_IT}",
        ) from error
    try:
        hf_hub_download(model.source, CONFIG, revision=model.revision)
        path = Path(hf_hub_download(model.source, FILE, revision=model.revision))
    except (HfHubHTTPError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise PlanError(
            f"the tokenizer of {model.source} cannot be had: {said[0] if said else error!r}",
            hint=f"`evalkit prepare` stages models where there is internet.\n{_NAME_IT}",
        ) from error
    return path.parent


def _prefix_token(config: Path, tokenizer: Any) -> int | None:
    """lm-eval's `prefix_token_id`: beginning of sentence, else its end."""
    try:
        said = json.loads(config.read_text("utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise PlanError(f"{config} is not valid JSON: {error}") from error
    for name in ("bos_token", "eos_token"):
        token = said.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if text and (found := tokenizer.token_to_id(text)) is not None:
            return int(found)
    return None


def _windows(tokens: list[int], prefix: int, length: int) -> Iterator[Pair]:
    """As many tokens as fit are given before each window's own; the last one reaches back for more."""
    done = 0
    while done < len(tokens):
        end = min(done + length, len(tokens))
        if done == 0:
            yield Pair([prefix], tokens[:end])
        else:
            # what was asked about before is given again, up to the window's length
            yield Pair(tokens[max(0, end - length - 1) : done], tokens[done:end])
        done = end
