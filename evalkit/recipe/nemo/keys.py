"""Which keys a launcher file may have, and the problems of those it has.

The launcher checks some sections and passes others on to its templates. Here the first are `STRICT`:
an unknown key is an error. Elsewhere it is a note, with the nearest key, for it may be there to be
referred to. The sections' keys are facts about NVIDIA-NeMo/Evaluator (Apache-2.0) 0.2, as in
`groups.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.recipe.document import Document, Path, get
from evalkit.recipe.nemo.interpolation import MISSING, START
from evalkit.recipe.problems import Problem, found_value, nearest
from evalkit.recipe.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEXT = Shape("text")
NUMBER = Shape("a number")
WHOLE = Shape("a whole number")
FLAG = Shape("true or false")
ANY = Shape("anything", open=True)
FREE = Shape("a mapping", values=ANY)
TEXTS = Shape("a mapping", values=TEXT)
LIST = Shape("a list", items=ANY)


def _section(**keys: Shape) -> Shape:
    return Shape("a mapping", keys=keys)


def _all(shape: Shape, names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), shape)


JUDGE = _section(
    **_all(TEXT, "url model_id api_key generation_type prompt_config args"),
    **_all(WHOLE, "random_seed max_new_tokens parallelism"),
    **_all(NUMBER, "temperature top_p"),
    hle_strict_judge=FLAG,
)
NS_EXTRA = _section(
    **_all(TEXT, "prompt_config args system_message dataset_split data_dir server_type"),
    **_all(FLAG, "use_sandbox skip_data_dir_check judge_support"),
    num_repeats=WHOLE,
    judge=JUDGE,
    **_all(FREE, "ruler comet"),
    **_all(TEXT, "tokenizer tokenizer_backend"),
)
"""`extra` of the tasks of NeMo Skills; the tokenizer is what files give to all tasks at once."""
PARAMS = _section(
    limit_samples=NUMBER,
    **_all(WHOLE, "max_new_tokens max_retries parallelism"),
    **_all(NUMBER, "temperature request_timeout top_p"),
    task=TEXT,
    extra=FREE,
)
INTERCEPTOR = _section(name=TEXT, enabled=FLAG, config=FREE)
ADAPTER = _section(
    **_all(
        FLAG,
        "use_caching save_responses save_requests reuse_cached_responses use_request_logging "
        "use_response_logging log_failed_requests tracking_requests_stats use_reasoning "
        "process_reasoning_traces include_if_reasoning_not_finished track_reasoning "
        "use_system_prompt use_progress_tracking use_raise_client_errors generate_html_report "
        "use_omni_info use_nvcf",
    ),
    **_all(WHOLE, "max_logged_requests max_logged_responses max_saved_requests html_report_size"),
    **_all(WHOLE, "max_saved_responses progress_tracking_interval"),
    **_all(
        TEXT,
        "caching_dir start_reasoning_token end_reasoning_token custom_system_prompt "
        "progress_tracking_url endpoint_type output_dir endpoint logging_dir",
    ),
    params_to_add=FREE,
    params_to_remove=LIST,
    params_to_rename=TEXTS,
    interceptors=Shape("a list", items=INTERCEPTOR),
    post_eval_hooks=LIST,
    discovery=FREE,
)
ENDPOINT = _section(
    **_all(TEXT, "url model_id api_key_name type"),
    stream=FLAG,
    adapter_config=ADAPTER,
)
EVALUATOR = _section(
    config=_section(params=PARAMS, type=TEXT, output_dir=TEXT, supported_endpoint_types=LIST),
    target=_section(api_endpoint=ENDPOINT),
)
TASK = _section(
    **_all(TEXT, "name container endpoint_type dataset_dir dataset_mount_path pre_cmd post_cmd"),
    env_vars=TEXTS,
    nemo_evaluator_config=EVALUATOR,
)
DEPLOYMENT = _section(
    **_all(
        TEXT,
        "type image checkpoint_path hf_model_handle served_model_name extra_args pre_cmd "
        "cache_path command base_command distributed_executor_backend env_prefix",
    ),
    **_all(
        WHOLE,
        "port tensor_parallel_size pipeline_parallel_size data_parallel_size "
        "data_parallel_size_local num_nodes num_instances",
    ),
    gpu_memory_utilization=NUMBER,
    env_vars=TEXTS,
    endpoints=TEXTS,
)
MOUNTS = _section(deployment=TEXTS, evaluation=TEXTS, auxiliary=FREE, mount_home=FLAG)
EXECUTION = _section(
    **_all(
        TEXT,
        "type output_dir mode extra_docker_args hostname username account partition cpu_partition "
        "gres walltime max_walltime subproject sbatch_comment",
    ),
    **_all(
        WHOLE,
        "num_nodes num_instances ntasks_per_node gpus_per_node endpoint_readiness_timeout",
    ),
    sbatch_extra_flags=FREE,
    deployment=_section(n_tasks=WHOLE),
    mounts=MOUNTS,
    proxy=FREE,
    env_vars=FREE,
    auto_export=FREE,
    evaluation_gpu_visible=FLAG,
)
EVALUATION = _section(
    env_vars=TEXTS,
    nemo_evaluator_config=EVALUATOR,
    pre_cmd=TEXT,
    post_cmd=TEXT,
    tasks=Shape("a list", items=TASK),
)
CONFIGURATION = _section(
    defaults=LIST,
    env_vars=TEXTS,
    execution=EXECUTION,
    deployment=DEPLOYMENT,
    auxiliary_deployments=Shape("a mapping", values=DEPLOYMENT),
    target=_section(api_endpoint=ENDPOINT),
    evaluation=EVALUATION,
    export=FREE,
)
STRICT = (EVALUATION, TASK, MOUNTS, PARAMS, ADAPTER)
"""Sections in which the launcher, or the harness behind it, takes no other key."""

KINDS: Mapping[str, tuple[type, ...]] = {
    "text": (str, int, float),
    "a whole number": (int,),
    "a number": (int, float),
    "true or false": (bool,),
    "a mapping": (dict,),
    "a list": (list,),
}


def is_known(path: Path) -> bool:
    """Whether the schema has a key at this path."""
    shape: Shape | None = CONFIGURATION
    for key in path:
        shape = None if shape is None else shape.child(key)
    return shape is not None


def unknown_key(path: Path) -> Problem:
    """The problem of a key that the schema has not, with the nearest and the valid ones."""
    shape: Shape | None = CONFIGURATION
    for depth, key in enumerate(path):
        above, shape = shape, None if shape is None else shape.child(key)
        if shape is None and above is not None:
            keys = [*(above.keys or {})]
            valid = f"Valid keys: {', '.join(keys)}" if keys else f"It takes {above.words}"
            return Problem(
                path[: depth + 1],
                f"unknown key '{key}'. {nearest(str(key), keys)}{valid}",
                path[:depth],
            )
    return Problem(path, "a known key")


def key_problems(document: Document) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with the keys and the types of values, and unknown keys that may be helpers."""
    errors: list[Problem] = []
    odd: list[Problem] = []
    for _, is_error, problem in _walk(document.data, CONFIGURATION, ()):
        (errors if is_error else odd).append(problem)
    return errors, odd


def _walk(value: Any, shape: Shape, path: Path) -> Iterator[tuple[Path, bool, Problem]]:
    if shape.open or value is None or _is_reference(value):
        return
    if not _fits(value, shape):
        yield path, True, Problem(path, f"expected {shape.words}, found {found_value(value)}")
        return
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        below = shape.child(key)
        if below is None:
            is_error = any(shape is each for each in STRICT)
            yield (*path, key), is_error, unknown_key((*path, key))
        else:
            yield from _walk(each, below, (*path, key))


def _fits(value: Any, shape: Shape) -> bool:
    kinds = KINDS[shape.words]
    if isinstance(value, bool):
        return bool in kinds
    if bool in kinds and isinstance(value, str):
        return False
    return isinstance(value, kinds) or (float in kinds and str not in kinds and _is_number(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and (value == MISSING or START in value)


def extra_problems(document: Document, root: Path) -> list[Problem]:
    """Problems of the `extra` that a task of NeMo Skills has itself, at `root`."""
    extra = get(document.data, root)
    if not isinstance(extra, dict):
        return []
    found = []
    for path, _, problem in _walk(extra, NS_EXTRA, ()):
        shape = NS_EXTRA if len(path) == 1 else JUDGE
        text = problem.text
        if text.startswith("unknown key"):
            keys = [*(shape.keys or {})]
            text = f"unknown key '{path[-1]}'. {nearest(str(path[-1]), keys)}Valid keys: {', '.join(keys)}"
        found.append(
            Problem(root + path, text, None if text == problem.text else (root + path)[:-1])
        )
    return found
