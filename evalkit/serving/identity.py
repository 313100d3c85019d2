"""Which model was evaluated: fingerprints of a checkpoint's files.

Reading a checkpoint of 60 GB whole takes minutes on a shared file system and would be done for
every plan. Small files are hashed whole; of large ones the header (every tensor's name, type, shape
and place), the size, and blocks spread evenly over the file. Retraining, requantising, merging or
truncating changes them; a single flipped byte between the blocks does not, and is not what this is
for.

A hosted model has only its name. Those on the hub are in `evalkit.serving.hub`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import IncompleteCheckpointError, RecipeError
from evalkit.plan.model import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalkit.recipe.schema import Source

WHOLE_BYTES = 32 * 1024 * 1024
"""Files up to this size are hashed whole."""
BLOCK_BYTES = 64 * 1024
BLOCKS = 64
"""Evenly spaced blocks of a larger file, its first and last bytes included: 4 MiB to read."""
MAX_HEADER_BYTES = 100 * 1024 * 1024
"""The safetensors format's own limit for a header."""

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "scaler.pt")
# Quantisation settings and code shipped with a checkpoint shape it as much as config.json does.
CONFIG = ("config.json", "generation_config.json", "*quant*_config.json", "*.py")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)


def checkpoint_identity(
    name: str, model: Source, base: Path, *, need_weights: bool = True, section: str = "models"
) -> ModelIdentity:
    """Identity of `<section>.<name>`, a folder or a hosted model; `base` is where its path starts.

    `need_weights` is false for servers that make up random weights (`load_format: dummy`).
    Raises RecipeError naming the key when a folder is not a checkpoint.
    """
    if model.path is None:
        return ModelIdentity(name=name, source=model.source)
    folder = base / Path(model.path).expanduser()
    try:
        return _read_folder(name, folder, need_weights, f"{section}.{name}.path")
    except OSError as error:
        raise RecipeError(f"{section}.{name}.path: cannot read {folder}: {error}") from error


def _read_folder(name: str, folder: Path, need_weights: bool, key: str) -> ModelIdentity:
    if not folder.is_dir():
        raise RecipeError(
            f"{key}: no folder {folder}",
            hint="A path is relative to the recipe file; for a hub repository write `hub: owner/name`.",
        )
    if not (folder / "config.json").is_file():
        raise RecipeError(
            f"{key}: {folder} has no config.json",
            hint="It must be a Hugging Face checkpoint folder.",
        )
    weights = find_weights(key, folder)
    if need_weights and not weights:
        raise IncompleteCheckpointError(
            f"{key}: {folder} has no weights ({', '.join(WEIGHTS)})",
            hint="Is the copy complete? `serving.load_format: dummy` serves random weights.",
        )
    for file in weights:
        if file.suffix == ".safetensors":
            _check_whole(key, file)
    return ModelIdentity(
        name=name,
        source=folder.resolve().name,
        weights=_digest_files(weights) if weights else None,
        **digest_small_files(folder),
    )


def digest_small_files(folder: Path) -> dict[str, str | None]:
    """Hashes of all that is not weights, by the field of a model's identity."""
    tokenizer, template = _match(folder, TOKENIZER), read_chat_template(folder)
    return {
        "config": _digest_files(_match(folder, CONFIG)),
        "tokenizer": _digest_files(tokenizer) if tokenizer else None,
        "chat_template": None if template is None else _sha256(template),
    }


def find_weights(key: str, folder: Path) -> list[Path]:
    """Weight files of a checkpoint. Raises RecipeError when its index names files that are absent."""
    for index in sorted(folder.glob("*.index.json")):
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"{key}: {index} is not an index of weights") from error
        absent = sorted(file for file in named if not (folder / str(file)).is_file())
        if absent:
            raise IncompleteCheckpointError(
                f"{key}: {len(absent)} of {len(named)} weight files are missing, first {absent[0]}",
                hint=f"{index.name} names them: is the copy or download complete?",
            )
    skipped = set(_match(folder, NOT_WEIGHTS))
    return [path for path in _match(folder, WEIGHTS) if path not in skipped]


def _check_whole(key: str, file: Path) -> None:
    """Raise IncompleteCheckpointError for a safetensors file that ends before its last tensor does."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        tensors = json.loads(header)
        ends = [int(t["data_offsets"][1]) for name, t in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise IncompleteCheckpointError(
            f"{key}: {file} does not begin like a safetensors file",
            hint="Is it still being written, or a pointer of Git LFS?",
        ) from error
    if 8 + length + max(ends, default=0) > size:
        raise IncompleteCheckpointError(
            f"{key}: {file} has {size:,} bytes of {8 + length + max(ends, default=0):,}",
            hint="Is the copy complete, or still being written?",
        )


def fingerprint_file(path: Path) -> str:
    """sha256 of a file: whole up to WHOLE_BYTES, else of size, header and evenly spaced blocks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"sampled {size}".encode())
        if path.suffix == ".safetensors":
            length = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(length, MAX_HEADER_BYTES)))
        for number in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def read_chat_template(folder: Path) -> str | None:
    """The chat template, wherever the checkpoint keeps it; None when it has none.

    The same text gives the same result in each place. Several named templates come as JSON.
    """
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (file := folder / name).is_file():
            continue
        try:
            body = json.loads(file.read_bytes())
        except ValueError as error:
            raise RecipeError(f"{file} is not JSON: {error}") from error
        template = body.get("chat_template") if isinstance(body, dict) else None
        if template is not None:
            return template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return None


def _match(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _digest_files(files: Iterable[Path]) -> str:
    """Over names and contents, in the order of names."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {fingerprint_file(path)}\n".encode())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
