"""What is wrong with a recipe is said with file, line, key, what is expected and the nearest key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evalkit.errors import RecipeError
from evalkit.recipe.load import LoadedRecipe
from evalkit.recipe.secret_text import holds_key, mask
from evalkit.recipe.values import SENT_BY_US

Load = Callable[..., LoadedRecipe]
HEAD = "model: /m\ntasks: {t: {}}\n"
TASK_KEYS = "Valid keys: benchmark, profile, repeats, limit, params, data, generation, request, reasoning, serving"


def message(load: Load, text: str) -> str:
    """The error of a recipe."""
    with pytest.raises(RecipeError) as caught:
        load(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("profil: card", "r.yaml:3: unknown key 'profil'. Did you mean 'profile'? Valid keys: name, "),
        ("zzzz: 1", "r.yaml:3: unknown key 'zzzz'. Valid keys: name, description, profile, models, "),
        ("profile: cart", "r.yaml:3 profile: expected one of card, fixed, found 'cart'"),
        ("name: a b", "r.yaml:3 name: expected a name of letters, digits, '.', '_' and '-' that "),
        ("client: 5", "r.yaml:3 client: expected a mapping, found 5"),
        ("client: {max_retries: -1}", "r.yaml:3 client.max_retries: expected a whole number of at least 0, found -1"),
        ("client: {max_retries: 1.5}", "r.yaml:3 client.max_retries: expected a whole number of at least 0, found 1.5"),
        ("client: {max_retries: true}", "r.yaml:3 client.max_retries: expected a whole number of at least 0, found true"),
        ("client: {timeout_s: .inf}", "r.yaml:3 client.timeout_s: expected a number above 0, or null, found inf"),
        ("generation: {temperature: abc}", "r.yaml:3 generation.temperature: expected a number of at least 0, or null, found 'abc'"),
        ("generation: {seed: x}", "r.yaml:3 generation.seed: expected repeat or a whole number, or null, found 'x'"),
        ("generation: {seed: true}", "r.yaml:3 generation.seed: expected repeat or a whole number, or null, found true"),
        ("generation: {stop: x}", "r.yaml:3 generation.stop: expected a list of texts, or null, found 'x'"),
        ("generation: {stop: [a, [b]]}", "r.yaml:3 generation.stop.1: expected text, found a list"),
        ("reasoning: {strip: maybe}", "r.yaml:3 reasoning.strip: expected true or false, found 'maybe'"),
        ("reasoning: {end: null, start: ''}", "r.yaml:3 reasoning.start: an empty text is everywhere"),
        ("reasoning: {strip: false, end: x}", "r.yaml:3 reasoning: end has no effect with strip: false"),
        ("request: {remove: seed}", "r.yaml:3 request.remove: expected a list of texts, found 'seed'"),
        ("request: {remove: [seed, messages]}", "r.yaml:3 request.remove: messages cannot be left out: no request is answered without it"),
        ("request: {remove: [a], add: {a: 1}}", "r.yaml:3 request: a is in remove and in add; give one"),
        ("request: {remove: [a], rename: {a: b}}", "r.yaml:3 request: a is in remove and in rename; give one"),
        ("request: {add: {b: 1}, rename: {a: b}}", "r.yaml:3 request: b is in add, and a is renamed to it; give one"),
        ("request: {rename: {a: c, b: c}}", "r.yaml:3 request.rename: two fields would be sent as c"),
        ("request: {rename: {a: a}}", "r.yaml:3 request.rename: a has that name already"),
        ("request: {rename: {a: model}}", "r.yaml:3 request.rename: model keeps its name and its meaning"),
        ("request: {add: {tools: []}}", "r.yaml:3 request.add: tools does not belong here: the benchmark brings them"),
        ("request: {add: {top_k: 1}}", "r.yaml:3 request.add: top_k does not belong here; use generation.top_k"),
        ("generation: {temprature: 1}", "r.yaml:3 generation: unknown key 'temprature'. Did you mean 'temperature'? "),
        ("output: {dir: 1.10}", "r.yaml:3 output.dir: expected text, found 1.1"),
        ("output: {dir: [a]}", "r.yaml:3 output.dir: expected text, found a list"),
        ("output: {dir: {a: b}}", "r.yaml:3 output.dir: expected text, found a mapping"),
        (f"profile: {'x' * 90}", f"r.yaml:3 profile: expected one of card, fixed, found '{'x' * 60}...'"),
        ("serving: {kind: vlm}", "r.yaml:3 serving.kind: expected one of vllm, command, external, found 'vlm'"),
        ("serving: {kind: [a]}", "r.yaml:3 serving.kind: expected one of vllm, command, external, found a list"),
        ("serving: {kind: external, base_url: http://x, api_key_env: 1234}", "r.yaml:3 serving.api_key_env: expected the name of an environment variable, or null, found text that may be a secret, 123... (4 characters)"),
        ("profile: NVIDIA-Nemotron-3-Nano-30B-A3B", "r.yaml:3 profile: expected one of card, fixed, found 'NVIDIA-Nemotron-3-Nano-30B-A3B'"),
        ("serving: [a]", "r.yaml:3 serving: expected a mapping, found a list"),
        ("serving: {kind: external}", "r.yaml:3 serving.base_url: missing. It takes a URL with http:// or https://"),
        ("serving: {kind: external, base_url: localhost}", "r.yaml:3 serving.base_url: expected a URL with http:// or https://, found 'localhost'"),
        ("serving: {base_url: http://x}", "r.yaml:3 serving: unknown key 'base_url'. It belongs to kind external, and this is vllm. Valid keys: served"),
        ("serving: {extra_args: {x: {y: 1}}}", "r.yaml:3 serving.extra_args.x: expected text or a whole number or a number or true or false or a list of values, or null, found a mapping"),
        ("serving: {env: {1A: b}}", "r.yaml:3 serving.env.1A: not a variable: it begins with a letter or '_' and holds letters, digits, '_' only"),
        ("serving: {kind: command, command: []}", "r.yaml:3 serving.command: expected a list of texts with at least 1 entry, found a list"),
        ("cluster: {partiton: x}", "r.yaml:3 cluster: unknown key 'partiton'. Did you mean 'partition'? Valid keys: executor"),
        ("cluster: {executor: null, replicas: 0}", "r.yaml:3 cluster.replicas: expected a whole number of at least 1, found 0"),
        ("cluster: {template: [a]}", "r.yaml:3 cluster.template: expected the name or the file of a template"),
    ],
)  # fmt: skip
def test_top_level(line: str, expected: str, load: Load) -> None:
    """One problem, one sentence."""
    assert message(load, HEAD + line).startswith(expected)
    assert "\n" not in message(load, HEAD + line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: [t]", "models: missing. It takes a mapping with at least 1 entry"),
        ("models: {}\ntasks: [t]", "r.yaml:1 models: expected a mapping with at least 1 entry, found a mapping"),
        ("models: null\ntasks: [t]", "r.yaml:1 models: missing. It takes a mapping with at least 1 entry"),
        ("models: {m: }\ntasks: [t]", "r.yaml:1 models.m: give exactly one of path, hub and id, not none"),
        ("models: {m: {path: a, id: b}}\ntasks: [t]", "r.yaml:1 models.m: give exactly one of path, hub and id, not path and id"),
        ("models: {m: {path: a, revision: b}}\ntasks: [t]", "r.yaml:1 models.m: revision belongs to hub"),
        ("models: {a b: /m}\ntasks: [t]", "r.yaml:1 models.a b: not a name: it begins with a letter or digit and holds letters, digits, '_', '.', '-' only"),
        ("model: /m\ntasks:\n  t:\n    repeat: 3", f"r.yaml:4 tasks.t: unknown key 'repeat'. Did you mean 'repeats'? {TASK_KEYS}"),
        ("model: /m\ntasks: {t: {max_tokens: 3}}", f"r.yaml:2 tasks.t: unknown key 'max_tokens'. Did you mean 'generation.max_tokens'? {TASK_KEYS}"),
        ("model: /m\ntasks: {t: {data: {sha256: abc}}}", "r.yaml:2 tasks.t.data.sha256: expected 64 hexadecimal digits, or null, found 'abc'"),
        ("model: /m\ntasks: {t: 5}", "r.yaml:2 tasks.t: expected a mapping, found 5"),
        ("model: /m\ntasks:\n  t:\n    generation:\n      top: 1", "r.yaml:5 tasks.t.generation: unknown key 'top'. Did you mean 'stop'? "),
        ("model: /m\ntasks: {t: {generation: 5}}", "r.yaml:2 tasks.t.generation: expected a mapping, found 5"),
        ("models: {m: {path: a, generation: {top_p: 2}}}\ntasks: [t]", "r.yaml:1 models.m.generation.top_p: expected a number above 0 and at most 1, or null, found 2"),
        ("model: /m\ntasks:\n  t:\n    serving:\n      max_model_length: 1", "r.yaml:5 tasks.t.serving: unknown key 'max_model_length'. Did you mean 'max_model_len'? "),
        ("models: {m: {path: a, serving: {gpus: x}}}\ntasks: [t, u]", "r.yaml:1 models.m.serving.gpus: expected a whole number of at least 0, or null, found 'x'"),
        ("model: /m\ntasks: {t: {serving: {kind: external}}}", "r.yaml:2 tasks.t.serving.base_url: missing. It takes a URL with http:// or https://"),
        ("model: /m\ntasks: {t: {serving: {kind: x}}}", "r.yaml:2 tasks.t.serving.kind: expected one of vllm, command, external, found 'x'"),
    ],
)  # fmt: skip
def test_inside(text: str, expected: str, load: Load) -> None:
    """A problem inside a model or a task names it; partial sections are checked on load."""
    assert message(load, text).startswith(expected)
    assert "\n" not in message(load, text)


def test_wrong_type_of_partial_serving(load: Load) -> None:
    """A serving that is no mapping is named beside a recipe's serving that is wrong too."""
    text = "model: /m\ntasks: {t: {serving: true}}\nserving: {kind: external}"
    assert message(load, text).splitlines() == [
        "r.yaml: 2 problems",
        "  r.yaml:2 tasks.t.serving: expected a mapping, found true",
        "  r.yaml:3 serving.base_url: missing. It takes a URL with http:// or https://",
    ]


def test_many(load: Load) -> None:
    """All problems are listed in the order of their lines, the first ten at most."""
    lines = [f"  t{i}:\n    limit: x" for i in range(12)]
    text = message(load, "model: /m\ntasks:\n" + "\n".join(lines)).splitlines()
    assert text[0] == "r.yaml: 12 problems"
    assert text[1].startswith("  r.yaml:4 tasks.t0.limit: expected a whole number")
    assert text[10].startswith("  r.yaml:22 tasks.t9.limit: ")
    assert text[11:] == ["  and 2 more"]


def test_all_sections_at_once(load: Load) -> None:
    """Problems of partial sections are listed together with those of the recipe."""
    text = (
        "model: /m\ntasks:\n  t:\n    serving: {gpus: x}\n    generation: {top_p: 2}\nclient: 5\n"
    )
    assert [line.split()[1] for line in message(load, text).splitlines()[1:]] == [
        "tasks.t.serving.gpus:",
        "tasks.t.generation.top_p:",
        "client:",
    ]


def test_bad_serving_is_told_once(load: Load) -> None:
    """A problem of the recipe's serving is not repeated for every task that builds on it."""
    text = HEAD + "serving: {gpus: x}\n"
    assert message(load, text.replace("{t: {}}", "{t: {serving: {dtype: auto}}, u: {}}")) == (
        "r.yaml:3 serving.gpus: expected a whole number of at least 0, or null, found 'x'"
    )


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        ("{kind: external}", "r.yaml:2 serving.base_url: missing. It takes a URL with http"),
        ("{kind: x}", "r.yaml:2 serving.kind: expected one of vllm, command, external, found 'x'"),
        ("5", "r.yaml:2 serving: expected a mapping, found 5"),
    ],
)
def test_partial_on_a_wrong_serving(serving: str, expected: str, load: Load) -> None:
    """What is wrong with the recipe's serving is told there and not again for a task."""
    text = message(
        load, f"model: /m\nserving: {serving}\ntasks: {{t: {{serving: {{check_models: true}}}}}}"
    )
    assert text.startswith(expected)
    assert "\n" not in text


def test_problem_belongs_to_the_layer_that_has_it(load: Load) -> None:
    """Of merged mappings, the one that holds the wrong value is named."""
    text = "models: {m: {path: a, serving: {env: {A: 1.5}}}}\ntasks: {t: {serving: {env: {B: b}}}}"
    assert message(load, text) == "r.yaml:1 models.m.serving.env.A: expected text, found 1.5"


SECRETS = (
    "sk-proj-1234567890abcdef",
    "hf_abcdefghijklmnopqrstuvwx",
    "nvapi-1234567890",
    "AKIAABCDEFGHIJKLMNOP",
    "aB3dE6gH9jK2mN5pQ8sT1vW4yZ",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "section",
    [
        "serving: {{kind: external, base_url: http://x, api_key_env: {}}}",
        "serving: {{secrets: [{}]}}",
    ],
)
def test_secret_for_a_name(section: str, secret: str, load: Load) -> None:
    """A key where the name of its variable belongs is refused and not repeated."""
    text = message(load, HEAD + section.format(secret))
    assert secret not in text
    assert "r.yaml:3 serving." in text
    assert "secret" in text


@pytest.mark.parametrize(
    "section",
    [
        "serving: {{env: {{A: {}}}}}",
        "serving: {{kind: external, base_url: http://x, headers: {{X: Bearer {}}}}}",
        "cluster: {{env: {{A: {}}}}}",
        "tasks: {{t: {{serving: {{env: {{A: {}}}}}}}}}",
        "tasks: {{t: {{params: {{deep: [a, {{b: {}}}]}}}}}}",
        "serving: {{kind: command, command: [serve, --api-key, {}]}}",
        "serving: {{extra_args: {{api-key: {}}}}}",
        "generation: {{extra_body: {{auth: x {}}}}}",
        "generation: {{extra_body: {{'{}': 1}}}}",
        "description: with {}",
        "cluster: {{setup: ['export HF_TOKEN={}']}}",
    ],
)
def test_secret_in_recorded_text(section: str, load: Load) -> None:
    """A key in a section that is recorded is refused and not repeated."""
    head = "model: /m\n" if section.startswith("tasks") else HEAD
    text = message(load, head + section.format(SECRETS[0]))
    assert "this looks like a secret, and it would be recorded. Give the name of its" in text
    assert SECRETS[0] not in text


def test_secret_of_the_environment(load: Load) -> None:
    """A key that a reference brings in is refused at the reference's place."""
    text = "model: /m\ntasks: {t: {params: {x: '${env:K}'}}}"
    with pytest.raises(RecipeError, match=r"r\.yaml:2 tasks\.t\.params\.x: this looks") as caught:
        load(text, env={"K": SECRETS[0]})
    assert SECRETS[0] not in str(caught.value)


RECORDED_KEYS = (
    "sk-proj-1234567890abcdef",
    "sk-or-v1-" + "0a1b2c3d4e5f6071" * 4,
    "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "nvapi-abcdefgh12345678",
    "xai-" + "a1B2c3D4" * 10,
    "ghp_" + "a1B2c3D4" * 5,
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
)
NO_KEYS = (
    "/data/hf_checkpoints_nemotron_3_nano/step-1000",
    "/scratch/hf-cache-of-the-whole-team/hub",
    "/ckpt/sk-checkpoint20250101/global_step_12000",
    "/ckpt/sk-nemotron-3-nano-30b-a3b-bf16",
    "hf_MyVeryLongCheckpointName",
    "xai-grok-4-0709-reasoning",
    "pk_ablation_lr3e-5_bs1024_seed7",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "0123456789abcdef" * 4,
    "0123456789abcdef0123456789abcdef01234567",
    "Answer the question. Put the letter in \\boxed{A}, please: eyes.on.the.task",
    "/lustre/" + "fsw/portfolios/llm/users/someone/" * 6,
)


@pytest.mark.parametrize("key", RECORDED_KEYS)
def test_form_of_a_key(key: str) -> None:
    """Keys of providers are known, alone and inside a text, and never shown."""
    for text in (key, f"Bearer {key}", f"export X={key};"):
        assert holds_key(text)
        assert key not in mask(text)


@pytest.mark.parametrize("text", NO_KEYS)
def test_text_that_is_no_key(text: str, load: Load) -> None:
    """Checkpoints, checksums, prompts and long paths are taken, and shown as they are."""
    assert not holds_key(text)
    assert mask(text) == text
    loaded = load("tasks: [t]\nmodel: '" + text.replace("'", "''") + "'")
    assert [model.source for model in loaded.recipe.models.values()] == [text]


@pytest.mark.parametrize(("name", "instead"), SENT_BY_US.items())
def test_field_with_a_key_of_its_own(name: str, instead: str, load: Load) -> None:
    """What evalkit sends itself is no free field of the request, for a model or a task either."""
    words = f"{name} does not belong here; use {instead}"
    body = f"generation: {{extra_body: {{a: 1, {name}: 1}}}}"
    assert message(load, HEAD + body) == f"r.yaml:3 generation.extra_body: {words}"
    assert message(load, f"model: /m\ntasks: {{t: {{{body}}}}}") == (
        f"r.yaml:2 tasks.t.generation.extra_body: {words}"
    )


def test_secret_header(load: Load) -> None:
    """A header that is for a key is refused whatever it holds."""
    text = HEAD + "serving: {kind: external, base_url: http://x, headers: {Authorization: x}}"
    assert message(load, text) == (
        "r.yaml:3 serving.headers: Authorization would be recorded; name the key's variable in "
        "api_key_env"
    )


def test_secret_elsewhere(load: Load) -> None:
    """A key in any other wrong place is not repeated either."""
    assert message(load, HEAD + f"profile: {SECRETS[0]}") == (
        "r.yaml:3 profile: expected one of card, fixed, found text that may be a secret, "
        "sk-... (24 characters)"
    )


def test_names_that_are_no_secrets(load: Load) -> None:
    """Ordinary names of variables pass, long ones too."""
    loaded = load(HEAD + "serving: {secrets: [HF_TOKEN, NVIDIA_INFERENCE_API_KEY_FOR_TEAM_2]}")
    env = load(HEAD + "serving: {env: {P: /home/sk-user-with-long-name/bin}}").recipe.serving.env
    assert env == {"P": "/home/sk-user-with-long-name/bin"}
    assert loaded.recipe.serving.secrets == ("HF_TOKEN", "NVIDIA_INFERENCE_API_KEY_FOR_TEAM_2")


def test_numbers_where_text_is_asked(load: Load) -> None:
    """Whole numbers are text where text is asked for: they read back as they were written."""
    text = HEAD + (
        "cluster: {account: 123, mem: 0, env: {A: 1}}\n"
        "serving: {kind: command, command: [serve, --port, 80]}\n"
    )
    recipe = load(text).recipe
    assert recipe.serving.model_dump()["command"] == ("serve", "--port", "80")


def test_words_for_booleans(load: Load) -> None:
    """A key that takes true or false takes on, off, yes and no too."""
    serving = load(HEAD + "serving: {enforce_eager: on, expose: no}").recipe.serving
    assert (serving.model_dump()["enforce_eager"], serving.model_dump()["expose"]) == (True, False)
