"""What a recipe may say about how a model is served: by vLLM, by any command, or by somebody else."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from evalkit.recipe.section import Scalar, Section
from evalkit.recipe.values import EnvName, SecretName, Text, Words

SECRET_HEADERS = {"authorization", "proxy-authorization", "x-api-key", "api-key"}


class Serving(Section):
    """What every kind of deployment has."""

    served_model_name: Text | None = None
    """The model id in requests; by default the model's name in the recipe."""
    env: dict[EnvName, Text] = Field(default_factory=dict)
    """Environment variables of the server; they count as moving a score. Not for secrets: these are
    recorded."""
    secrets: tuple[SecretName, ...] = ()
    """Names of variables that hold secrets the server needs; values never leave the environment
    but in a 0600 file for the job."""


class LocalServing(Serving):
    """A server that evalkit starts itself, once per replica."""

    gpus: int | None = Field(None, ge=0)
    """GPUs of one replica; by default what the parallel sizes need (0 without GPUs)."""
    ready_timeout_s: float = Field(3600.0, gt=0)
    """Deadline from start to the first completed request. Large checkpoints take many minutes."""
    shutdown_timeout_s: float = Field(30.0, gt=0)
    """Time between SIGTERM and SIGKILL for the server's process group."""
    max_restarts: int = Field(2, ge=0)
    """Restarts of a server that died in use, per attempt, before the replica gives up."""
    stream_interval: int = Field(128, ge=1)
    """Tokens between two chunks of a streamed answer (vLLM): at most so many of each answer are lost
    with a node that dies without a word. Answers that may have no more tokens are not streamed."""
    expose: bool = False
    """Listen on all interfaces instead of 127.0.0.1 (other nodes must reach the server). Replicas then lend their
    servers to a program on another node, and a submit starts all that are asked for, however few units there are."""
    min_free_gpu_memory: float | None = Field(None, ge=0, le=1)
    """Share of each GPU's memory that must be free before the server starts, or the replica fails and
    names the node and the processes there. By default what a vLLM is told to use, else 0.8; 0 does not
    look."""


class VllmServing(LocalServing):
    """vLLM's OpenAI server, started by evalkit."""

    kind: Literal["vllm"] = "vllm"
    """How the model is served; the other keys depend on it."""
    python: Text | None = None
    """Interpreter that has vLLM; by default the one that runs evalkit."""
    launcher: Literal["auto", "serve", "module"] = "auto"
    """`vllm serve`, or `python -m vllm.entrypoints.openai.api_server`; auto finds which works."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that one copy of the model is split over, layer by layer inside."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Groups of layers that one copy of the model is split into."""
    data_parallel_size: int = Field(1, ge=1)
    """Copies of the model behind one endpoint."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens: prompt plus answer."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Fraction of GPU memory (of host memory on the CPU build)."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Most sequences the engine runs at once."""
    dtype: Text | None = None
    """Number format of weights and activations, such as `bfloat16`; by default the checkpoint's."""
    kv_cache_dtype: Text | None = None
    """Number format of the key-value cache, such as `fp8`."""
    quantization: Text | None = None
    """Quantization method, where the checkpoint does not say it itself."""
    load_format: Text | None = None
    """For example `dummy` for random weights."""
    reasoning_parser: Text | None = None
    """vLLM's name of the parser that separates reasoning from content."""
    tool_call_parser: Text | None = None
    """vLLM's name of the tool-call parser; also enables automatic tool choice."""
    enable_prefix_caching: bool | None = None
    """Reuse the cache of shared prompt starts; by default vLLM decides."""
    enforce_eager: bool = False
    """Do not capture graphs: starts faster, generates slower."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""
    extra_args: dict[str, Scalar | list[Scalar] | None] = Field(default_factory=dict)
    """Any other vLLM option by its long name without dashes: a value, a list of values, `true` for
    a bare flag, `false` for its `--no-` form, null to leave it out. Wins over the keys above."""


class CommandServing(LocalServing):
    """Any command that serves the OpenAI API: SGLang, llama.cpp, TensorRT-LLM, your own."""

    kind: Literal["command"]
    """How the model is served; the other keys depend on it."""
    command: tuple[Text, ...] = Field(min_length=1)
    """argv; `{model}`, `{served_model_name}`, `{host}`, `{port}` and `{api_key}` are filled in."""
    health_path: Text = "/health"
    """Path that answers 200 when the server is up."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens, where the server does not say it itself."""


class Price(Section):
    """What an endpoint takes, in any currency, per million tokens."""

    input: float = Field(ge=0)
    """Per million tokens of prompts."""
    output: float = Field(ge=0)
    """Per million tokens of answers, reasoning included."""
    cached: float | None = Field(None, ge=0)
    """Per million tokens of prompts that the endpoint had in its cache; null: as `input`."""

    def cost(self, prompt: int, completion: int, cached: int) -> float:
        """Of so many tokens; `cached` are some of `prompt`."""
        kept = self.input if self.cached is None else self.cached
        return (
            (prompt - cached) * self.input + cached * kept + completion * self.output
        ) / 1_000_000


class ExternalServing(Serving):
    """An endpoint that somebody else runs: nothing is started, no GPU is asked for."""

    kind: Literal["external"]
    """How the model is served; the other keys depend on it."""
    base_url: Annotated[str, Words("a URL with http:// or https://")] = Field(
        pattern=r"^https?://[^\s/]"
    )
    """URL up to and including the version, such as `http://localhost:8000/v1`."""
    api_key_env: SecretName | None = None
    """Name of the environment variable that holds the key."""
    headers: dict[str, Text] = Field(default_factory=dict)
    """More request headers. Not for secrets: these are recorded."""
    check_models: bool = True
    """Look for the model id in `/models` before the first request."""
    max_model_len: int | None = Field(None, ge=1)
    """Context length in tokens, where the endpoint does not say it itself."""
    price: Price | None = None
    """What it takes: costs are then told by status and results. Without it they are not guessed."""

    @field_validator("headers")
    @classmethod
    def _no_secret_header(cls, headers: dict[str, str]) -> dict[str, str]:
        if given := [name for name in headers if name.lower() in SECRET_HEADERS]:
            raise ValueError(
                f"{given[0]} would be recorded; name the key's variable in api_key_env"
            )
        return headers


AnyServing: TypeAlias = Annotated[
    VllmServing | CommandServing | ExternalServing, Field(discriminator="kind")
]


def price_of(serving: AnyServing) -> Price | None:
    """What an endpoint takes, where the recipe says so."""
    return serving.price if isinstance(serving, ExternalServing) else None


SERVING_SECTIONS = (VllmServing, CommandServing, ExternalServing)
