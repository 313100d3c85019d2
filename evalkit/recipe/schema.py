"""What a recipe may say. Every key of a recipe file is a field here, with its meaning and unit.

Nothing here reads a file, the environment or the network. Some parts of a recipe are *partial*
settings that are merged before they are validated: `serving` and `generation` below `models.<m>`
and `tasks.<t>`, and `cluster` over its template. `evalkit.recipe.resolve` merges and validates them; they carry the
marker `Partial`, so that their keys are known here too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from evalkit.base import Frozen
from evalkit.recipe.values import (
    EnvName,
    FreeBody,
    Name,
    Partial,
    SecretName,
    Text,
    Words,
)

SECRET_HEADERS = {"authorization", "proxy-authorization", "x-api-key", "api-key"}

Profile: TypeAlias = Literal["card", "fixed"]
Scalar: TypeAlias = str | int | float | bool


class Section(Frozen):
    """Base of all parts of a recipe."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        """`replicas: true` is a slip, though Python calls true a 1: as text it is no number."""
        if not isinstance(data, dict):
            return data
        wrong = [
            key
            for key, value in data.items()
            if isinstance(value, bool) and key in cls.model_fields and _is_number(cls, key)
        ]
        return data | {key: str(data[key]).lower() for key in wrong}


def _is_number(section: type[Section], key: str) -> bool:
    annotation = section.model_fields[key].annotation
    kinds = {annotation, *get_args(annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


class Generation(Section):
    """How answers are sampled. A key that is not set is not sent: the server's default applies."""

    temperature: float | None = Field(None, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus sampling mass."""
    top_k: int | None = Field(None, ge=-1)
    """Sample among the k likeliest tokens; -1 means all (vLLM)."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Minimum probability relative to the likeliest token (vLLM)."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of one answer, reasoning included; sent as `max_completion_tokens`."""
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    """Penalty for tokens that occurred."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    """Penalty for tokens by how often they occurred."""
    repetition_penalty: float | None = Field(None, gt=0)
    """Multiplicative penalty for repeats (vLLM)."""
    stop: tuple[Text, ...] | None = None
    """Texts that end an answer."""
    seed: Literal["repeat"] | int | None = "repeat"
    """`repeat` sends the repeat index; a number is added to the repeat index; null sends none."""
    system_message: Text | None = None
    """A system message before the benchmark's own messages."""
    think_tags: tuple[Text, Text] | None = ("<think>", "</think>")
    """Tags around reasoning that a server left inside the content; null takes content as it is."""
    extra_body: FreeBody = Field(default_factory=dict)
    """Anything else for the request body, for example `chat_template_kwargs`. Not what has a key of its
    own."""


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
    """Listen on all interfaces instead of 127.0.0.1 (other nodes must reach the server)."""
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


SERVING_SECTIONS = (VllmServing, CommandServing, ExternalServing)


class Model(Section):
    """One checkpoint or hosted model. Exactly one of `path`, `hub` and `id`."""

    path: Text | None = None
    """Folder of a checkpoint, relative to the recipe file."""
    hub: Text | None = None
    """Repository on the Hugging Face hub."""
    id: Text | None = None
    """Model id at an external endpoint."""
    revision: Text | None = None
    """Revision of the hub repository: a commit for results that stay comparable. By default the one
    its main branch has when the run is prepared; the run keeps it."""
    generation: Annotated[dict[str, Any], Partial((Generation,))] = Field(default_factory=dict)
    """Overrides of the recipe's `generation` for this model."""
    serving: Annotated[dict[str, Any], Partial(SERVING_SECTIONS)] = Field(default_factory=dict)
    """Overrides of the recipe's `serving` for this model."""

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        given = [k for k in ("path", "hub", "id") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of path, hub and id, not {' and '.join(given) or 'none'}"
            )
        if self.revision is not None and self.hub is None:
            raise ValueError("revision belongs to hub")
        return self

    @property
    def source(self) -> str:
        """Where the checkpoint is, as a server takes it."""
        return self.path or self.hub or self.id or ""


class DataOverride(Section):
    """Where a task's data set comes from, when not from the benchmark's own pinned source."""

    path: Text | None = None
    """Local file or folder in the benchmark's format, relative to the recipe file."""
    revision: Text | None = None
    """Another revision of the benchmark's hub repository."""
    sha256: (
        Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$"), Words("64 hexadecimal digits")] | None
    ) = None
    """Checksum the file must have; by default the benchmark's own where it has one."""
    allow_altered: bool = False
    """Accept data whose checksum is not the benchmark's; the result says so."""


class Task(Section):
    """One benchmark with its parameters."""

    benchmark: Text | None = None
    """Name of the benchmark; by default the task's name."""
    profile: Profile | None = None
    """How it is prompted and scored; by default the recipe's profile."""
    repeats: int | None = Field(None, ge=1)
    """Independent answers per sample; by default the benchmark's."""
    limit: int | None = Field(None, ge=1)
    """Only the first samples of the data set, for a smoke run."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The benchmark's own parameters (`evalkit ls task NAME` lists them)."""
    data: DataOverride = Field(default_factory=DataOverride)
    """Where the data set comes from."""
    generation: Annotated[dict[str, Any], Partial((Generation,))] = Field(default_factory=dict)
    """Overrides of `generation` for this task."""
    serving: Annotated[dict[str, Any], Partial(SERVING_SECTIONS)] = Field(default_factory=dict)
    """Overrides of `serving` for this task; it then gets a server of its own in turn."""


class Client(Section):
    """How requests are sent. Nothing here moves a score."""

    parallelism: int = Field(256, ge=1)
    """Most requests in flight to one endpoint."""
    max_retries: int = Field(8, ge=0)
    """Retries of one call after connection errors, 408, 409, 429 and 5xx."""
    retry_budget_s: float = Field(900.0, ge=0)
    """Longest time one call is retried for, counted from its first failure; anew once tokens came."""
    timeout_s: float | None = Field(None, gt=0)
    """Total time of one request; null (the default) has none: long reasoning takes hours."""
    stall_timeout_s: float = Field(900.0, gt=0)
    """Requests in flight, and no completed call and no token for so long: the server hangs."""
    salvage: bool = True
    """Keep the tokens of answers that are interrupted and go on from them, where the server can
    (vLLM that evalkit starts); otherwise such an answer is asked for again from its start."""


class Cluster(Section):
    """Where a run executes. A template of `slurm_templates/` has the same keys."""

    executor: Literal["slurm", "local"] = "slurm"
    """`slurm` submits with sbatch; `local` runs replicas as background processes here."""
    replicas: int = Field(1, ge=1)
    """Servers that share the run's work: tasks of one Slurm array."""
    array_parallelism: int | None = Field(None, ge=1)
    """Most replicas at once."""
    nodes: int = Field(1, ge=1)
    """Nodes of one replica. vLLM is spread over them by its parallel sizes: whole copies on each node
    where `data_parallel_size` is a multiple, else parts of one copy. A `command` server starts its
    parts on the other nodes itself."""
    time_min: int = Field(240, ge=1)
    """Wall-clock limit of one job, minutes."""
    signal_delay_s: int = Field(180, ge=10)
    """Seconds before the limit at which a job is told to drain."""
    max_hours: float | None = Field(None, gt=0)
    """Wall-clock hours that one replica's attempts may take together, requeues included; null has no
    limit. Another submit starts from zero."""
    max_failures: int = Field(3, ge=0)
    """Failed attempts of a replica in a row (server, GPU, node) that are tried again on another node.
    Preemptions, time limits and lost nodes are not counted."""
    partition: Text | None = None
    """Partition of the jobs."""
    account: Text | None = None
    """Account that is charged."""
    qos: Text | None = None
    """Quality of service of the jobs."""
    constraint: Text | None = None
    """Features the nodes must have."""
    exclude: Text | None = None
    """Nodes not to use."""
    cpus_per_task: int | None = Field(None, ge=1)
    """CPU cores of one replica."""
    mem: Text | None = None
    """Memory of one node, for example `64GB`; `0` means all of it."""
    gpu_request: Literal["gres", "gpus_per_node", "none"] = "gres"
    """Which sbatch option asks for GPUs."""
    gpu_type: Text | None = None
    """Type in the request, as in `gpu:h100:4`."""
    comment: Text | None = None
    """Comment on the jobs."""
    sbatch: dict[str, Scalar | None] = Field(default_factory=dict)
    """Any other `#SBATCH --key=value`; `true` is a bare flag, null leaves it out. Wins."""
    srun_args: tuple[Text, ...] = ()
    """More arguments of srun, for example Pyxis' `--container-image=...`."""
    setup: tuple[Text, ...] = ()
    """Shell lines before evalkit starts on a node: `module load`, `source .../activate`."""
    python: Text | None = None
    """Interpreter on the nodes; by default the one that submits."""
    server_prefix: tuple[Text, ...] = ()
    """argv put before the server's command, for example `apptainer exec --nv image.sif`;
    `{run_dir}` and `{model}` are filled in."""
    env: dict[EnvName, Text] = Field(default_factory=dict)
    """Environment variables of the job."""
    gather: dict[str, Scalar | None] = Field(default_factory=dict)
    """sbatch options of the gather job (CPU only), such as its partition."""


class Output(Section):
    """Where results go."""

    dir: Text = "runs"
    """Folder of all runs, relative to where the command is typed."""
    name: Name | None = None
    """Name of the run folder; by default the recipe's name."""


class Recipe(Section):
    """A whole recipe, resolved or as written."""

    name: Name
    """Name of the recipe; by default the file's name without its ending."""
    description: Text = ""
    """What the recipe is for, in a sentence."""
    profile: Profile = "card"
    """How benchmarks are prompted and scored: `card` as published, `fixed` with quirks mended."""
    models: dict[Name, Model] = Field(min_length=1)
    """Models under evaluation by name. A plain text is short for `path` when it begins with `.`, `/`
    or `~` or is there, else for `hub` when it reads `owner/name`. A top-level `model: TEXT` is short
    for one model."""
    serving: AnyServing = Field(default_factory=VllmServing)
    """How the models are served."""
    generation: Generation = Field(default_factory=Generation)
    """Sampling for all tasks; over a benchmark's defaults, under a task's own."""
    client: Client = Field(default_factory=Client)
    """How requests are sent."""
    cluster: Annotated[dict[str, Any], Partial((Cluster,), ("template",))] = Field(
        default_factory=dict
    )
    """`template` (a name in `slurm_templates/` or a file), and any key of a template over it."""
    tasks: dict[Name, Task] = Field(min_length=1)
    """What is evaluated; the key is the task's name, and the benchmark's unless it says so. A list of
    names will do where nothing else is said."""
    output: Output = Field(default_factory=Output)
    """Where results go."""
