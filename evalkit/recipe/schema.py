"""What a recipe may say. Every key of a recipe file is a field here, with its meaning and unit.

Nothing here reads a file, the environment or the network. Some parts of a recipe are *partial*
settings that are merged before they are validated: `serving`, `generation`, `request` and `reasoning`
below `models.<m>` and `tasks.<t>`, and `cluster` over its template. `evalkit.recipe.resolve` merges and validates them; they carry the
marker `Partial`, so that their keys are known here too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.section import Scalar, Section
from evalkit.recipe.serving import SERVING_SECTIONS, AnyServing, VllmServing
from evalkit.recipe.values import EnvName, FreeBody, Name, Partial, Text, Words

Profile: TypeAlias = Literal["card", "fixed"]


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
    extra_body: FreeBody = Field(default_factory=dict)
    """Any other sampling field for the request body, which a benchmark's own call may override. Not what
    has a key of its own."""


class Source(Section):
    """Where a checkpoint or hosted model is. Exactly one of `path`, `hub` and `id`."""

    path: Text | None = None
    """Folder of a checkpoint, relative to the recipe file. With a wildcard (`step-*`), in `models`: one
    model for each folder that matches."""
    hub: Text | None = None
    """Repository on the Hugging Face hub."""
    id: Text | None = None
    """Model id at an external endpoint."""
    revision: Text | None = None
    """Revision of the hub repository: a commit for results that stay comparable. By default the one
    its main branch has when the run is prepared; the run keeps it."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
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


class Model(Source):
    """One checkpoint or hosted model under evaluation."""

    generation: Annotated[dict[str, Any], Partial((Generation,))] = Field(default_factory=dict)
    """Overrides of the recipe's `generation` for this model."""
    request: Annotated[dict[str, Any], Partial((RequestSettings,))] = Field(default_factory=dict)
    """Overrides of the recipe's `request` for this model."""
    reasoning: Annotated[dict[str, Any], Partial((Reasoning,))] = Field(default_factory=dict)
    """Overrides of the recipe's `reasoning` for this model."""
    serving: Annotated[dict[str, Any], Partial(SERVING_SECTIONS)] = Field(default_factory=dict)
    """Overrides of the recipe's `serving` for this model."""


class Judge(Source):
    """A model that judges answers, where a benchmark needs one."""

    serving: AnyServing = Field(default_factory=VllmServing)
    """How it is served. One that evalkit serves itself is started when the answers are there."""
    generation: Annotated[dict[str, Any], Partial((Generation,))] = Field(default_factory=dict)
    """Overrides of the benchmark's own settings for its judge. A hosted judge whose id begins with `o` and a
    digit, or holds `gpt-5`, takes no sampling settings and is sent none but those that are given here."""
    request: RequestSettings = Field(default_factory=RequestSettings)
    """Changes to the body of every request to it."""
    reasoning: Reasoning = Field(default_factory=Reasoning)
    """How reasoning is taken out of its verdicts."""
    parallelism: int = Field(16, ge=1)
    """Most requests in flight to it."""


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
    request: Annotated[dict[str, Any], Partial((RequestSettings,))] = Field(default_factory=dict)
    """Overrides of `request` for this task."""
    reasoning: Annotated[dict[str, Any], Partial((Reasoning,))] = Field(default_factory=dict)
    """Overrides of `reasoning` for this task."""
    serving: Annotated[dict[str, Any], Partial(SERVING_SECTIONS)] = Field(default_factory=dict)
    """Overrides of `serving` for this task; it then gets a server of its own in turn."""
    judge: Name | None = None
    """Name in `judges` of the model that judges the answers; not needed where there is just one."""


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
    program_idle_s: float | None = Field(3600.0, gt=0)
    """A program that asks the model by itself (of inspect, a wheel, a command) has no request in flight,
    makes none and writes nothing into its log for so long: it hangs. It is ended, and its unit is tried
    once more by each replica that comes to it. Null waits for ever."""
    salvage: bool = True
    """Keep the tokens of answers that are interrupted and go on from them, where the server can
    (vLLM that evalkit starts); otherwise such an answer is asked for again from its start."""


class Cluster(Section):
    """Where a run executes. A template of `slurm_templates/` has the same keys."""

    executor: Literal["slurm", "local"] = "slurm"
    """`slurm` submits with sbatch; `local` runs replicas as background processes here."""
    replicas: int = Field(1, ge=1)
    """Servers that share the run's work: tasks of one Slurm array."""
    share: bool = False
    """The runs of a sweep share their jobs: each job works for one after the other and reloads its server
    in between. Else each run has jobs of its own. `max_hours` and `max_failures` count for each run."""
    array_parallelism: int | None = Field(None, ge=1)
    """Most replicas of one submit at once."""
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
    """Failed attempts of a replica in a row (server, GPU, node, killed worker) that are tried again on
    another node.
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
    """sbatch options of the job behind the replicas, which grades and gathers, such as its partition; it
    asks for GPUs only where it serves a judge."""


class Scoring(Section):
    """How code that a model wrote is run: programs that are graded, and cells of a Python tool."""

    unsafe: bool = False
    """Where no sandbox works, run it all the same: it can then read and do what you can."""
    image: Text | None = None
    """Apptainer image, relative to the recipe file, whose Python and packages run it."""


class Sweep(Section):
    """Several runs of one recipe, side by side."""

    matrix: dict[Text, tuple[Any, ...]] = Field(default_factory=dict)
    """Values by key, as in `-o`: a run for each combination."""
    variants: dict[Name, dict[Text, Any]] = Field(default_factory=dict)
    """Overrides by key, by the name of the run that they make; each with each combination of `matrix`."""


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
    request: RequestSettings = Field(default_factory=RequestSettings)
    """Changes to the body of every request, for what an endpoint takes; under a model's and a task's."""
    reasoning: Reasoning = Field(default_factory=Reasoning)
    """How reasoning is taken out of answers; under a model's and a task's."""
    client: Client = Field(default_factory=Client)
    """How requests are sent."""
    scoring: Scoring = Field(default_factory=Scoring)
    """How code that a model wrote is run."""
    cluster: Annotated[dict[str, Any], Partial((Cluster,), ("template",))] = Field(
        default_factory=dict
    )
    """`template` (a name in `slurm_templates/` or a file), and any key of a template over it."""
    judges: dict[Name, Judge] = Field(default_factory=dict)
    """Models that judge answers, by name: for tasks whose benchmark needs one."""
    unavailable: dict[Name, Text] = Field(default_factory=dict)
    """Tasks that belong to the evaluation and cannot be run here, by name, with the reason. They are named
    in plan and results, and count nowhere."""
    tasks: Annotated[dict[Name, Task], Words("a mapping with at least 1 entry")]
    """What is evaluated; the key is the task's name, and the benchmark's unless it says so. A list of
    names will do where nothing else is said."""
    sweep: Sweep = Field(default_factory=Sweep)
    """Variations of this recipe, a run for each."""
    output: Output = Field(default_factory=Output)
    """Where results go."""

    @field_validator("tasks")
    @classmethod
    def _something_is_named(cls, tasks: dict[str, Task], info: ValidationInfo) -> dict[str, Task]:
        """A recipe of unavailable tasks alone can be read and shown; there is no plan for it."""
        if not tasks and not info.data.get("unavailable"):
            raise ValueError("expected a mapping with at least 1 entry, found a mapping")
        return tasks
