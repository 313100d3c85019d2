"""Files, short forms, what a recipe extends, the environment: from text to a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evalkit.errors import RecipeError
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.recipe.serving import VllmServing
from evalkit.shipped import shipped_recipes

Load = Callable[..., LoadedRecipe]
Write = Callable[..., Path]


def test_loaded(load: Load) -> None:
    """A loaded recipe knows its file, its text, its layers and the place of every key."""
    text = "models: {m: {path: '${env:HERE}/m'}}\ntasks:\n  a:\n    limit: 5\n"
    loaded = load(text, "a.limit=4", env={"HERE": "/x"})
    assert loaded.recipe.models["m"].path == "/x/m"
    assert (loaded.path, loaded.base, loaded.given) == (Path("r.yaml"), Path(), text)
    assert loaded.raw["models"] == {"m": {"path": "${env:HERE}/m"}}
    assert loaded.sources["tasks.a"] == "r.yaml:3"
    assert loaded.sources["tasks.a.limit"] == "-o a.limit"
    assert loaded.recipe.name == "r"


def test_name_from_odd_file(write: Write, tmp_path: Path) -> None:
    """A file's name becomes a valid name of the recipe."""
    write("models: {m: {path: /m}}\ntasks: {a: {}}\n").rename(tmp_path / "_my recipe, v2.yaml")
    assert load_recipe("_my recipe, v2.yaml", env={}).recipe.name == "my-recipe-v2"


@pytest.mark.parametrize("source", ["demo", "demo.yaml", "recipes/demo.yaml"])
def test_shipped_by_name(source: str, write: Write) -> None:
    """A shipped recipe is found by name where no file of that name exists."""
    assert load_recipe(source, env={}).path == shipped_recipes()["demo"]


def test_folder_does_not_hide_shipped(write: Write, tmp_path: Path) -> None:
    """A folder of a shipped recipe's name is not taken for the recipe."""
    write("x")
    (tmp_path / "demo").mkdir()
    assert load_recipe("demo", env={}).path == shipped_recipes()["demo"]


def test_own_file_wins(write: Write) -> None:
    """A file in the working folder comes before a shipped recipe of the same name."""
    write(demo="models: {m: {path: /m}}\ntasks: {mine: {}}\n")
    assert list(load_recipe("demo.yaml", env={}).recipe.tasks) == ["mine"]


def test_missing_file(write: Write) -> None:
    """A missing file is answered with the file of nearly that name and what is shipped."""
    write(mine="a: 1")
    with pytest.raises(RecipeError) as caught:
        load_recipe("mime.yaml", env={})
    assert caught.value.message == "there is no recipe 'mime.yaml'"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(
        f"Did you mean 'mine.yaml'? Shipped recipes: {', '.join(shipped_recipes())}"
    )
    with pytest.raises(RecipeError, match="Did you mean 'demo'"):
        load_recipe("demmo", env={})
    with pytest.raises(RecipeError, match=r"zzz'\nShipped recipes: "):
        load_recipe("zzz", env={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "r.yaml: the recipe is empty"),
        (b"# only a remark\n", "r.yaml: the recipe is empty"),
        (b"- a\n", "r.yaml: a recipe is a mapping of keys to values, as in KEY: VALUE"),
        (b"a: \xff", "r.yaml: not UTF-8 text (byte 3)\nSave the recipe as UTF-8."),
        (
            b"a: [",
            "r.yaml:1: not valid YAML: expected the node content, but found '<stream end>'\n  a: [",
        ),
        (b"extends: 5", "r.yaml:1 extends: expected a file or a list of files"),
    ],
)
def test_broken_file(content: bytes, message: str, write: Write) -> None:
    """A file that is no recipe is answered with what it is."""
    path = write("x")
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, env={})
    assert str(caught.value) == message


def test_unreadable(write: Write, tmp_path: Path) -> None:
    """What exists and cannot be read is named with the reason."""
    write("x")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError) as caught:
        load_recipe("folder.yaml", env={})
    assert str(caught.value) == "folder.yaml: the recipe cannot be read: Is a directory"


def test_byte_order_mark(write: Write) -> None:
    """A file that begins with a byte order mark reads like one without."""
    path = write("x")
    path.write_bytes(b"\xef\xbb\xbfmodels: {m: {path: /m}}\ntasks: {a: {}}\n")
    assert list(load_recipe(path, env={}).recipe.models) == ["m"]


class TestShortForms:
    """Short forms of models and tasks."""

    @pytest.mark.parametrize(
        ("text", "name", "field", "value"),
        [
            ("./ck/step-10/", "step-10", "path", "./ck/step-10/"),
            ("~/ck", "ck", "path", "~/ck"),
            ("/ck", "ck", "path", "/ck"),
            ("here", "here", "path", "here"),
            ("nobody", "nobody", "path", "nobody"),
            ("owner/name-1.5", "name-1.5", "hub", "owner/name-1.5"),
            ("here/inner", "inner", "path", "here/inner"),
            ("${env:M}", "big", "hub", "owner/big"),
            ("/", "model", "path", "/"),
        ],
    )
    def test_model(
        self, text: str, name: str, field: str, value: str, load: Load, tmp_path: Path
    ) -> None:
        """`model` is a path when it reads like one or is there, else a hub repository."""
        (tmp_path / "here" / "inner").mkdir(parents=True)
        loaded = load(f"model: '{text}'\ntasks: [a]", env={"M": "owner/big"})
        assert list(loaded.recipe.models) == [name]
        assert getattr(loaded.recipe.models[name], field) == value
        assert loaded.raw["models"][name] == {field: text}

    def test_models(self, load: Load) -> None:
        """A text in `models` is read the same way."""
        models = load("models: {a: ./x, b: o/n}\ntasks: [t]").recipe.models
        assert (models["a"].path, models["b"].hub) == ("./x", "o/n")

    def test_tasks(self, load: Load) -> None:
        """A list of tasks may hold names and mappings; null in a mapping means no more to say."""
        loaded = load("model: ./x\ntasks:\n- a\n- b: {limit: 3}\n- c:\n")
        assert [task.limit for task in loaded.recipe.tasks.values()] == [None, 3, None]
        assert loaded.sources["tasks.b.limit"] == "r.yaml:4"
        assert list(load("model: ./x\ntasks: {aime2025: null}").recipe.tasks) == ["aime2025"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("model: a\nmodels: {}\n", "r.yaml:1 model: give model or models, not both"),
            (
                "model: [a]",
                "r.yaml:1 model: expected the path or the hub name of one model\nWrite ",
            ),
            ("tasks: [a, b: {}, a]", "r.yaml:1 tasks: the task a is given twice"),
            (
                "tasks:\n- [a]",
                "r.yaml:2 tasks: a list of tasks holds names, or mappings NAME: {...}",
            ),
        ],
    )
    def test_errors(self, text: str, message: str, load: Load) -> None:
        """A short form that cannot be read says where and how it reads."""
        with pytest.raises(RecipeError) as caught:
            load(text)
        assert str(caught.value).startswith(message)


class TestExtends:
    """Recipes over other recipes."""

    def test_layers(self, write: Write) -> None:
        """The file wins over what it extends, a later base over an earlier one."""
        write(
            r="extends: [one.yaml, two]\ngeneration: {top_p: 0.3}\n",
            one="models: {m: /m}\ngeneration: {temperature: 0.1, top_p: 0.1, min_p: 0.1}\n",
            two="tasks: [a]\ngeneration: {temperature: 0.2, top_p: 0.2}\n",
        ).parent.joinpath("two.yaml").rename("two")
        loaded = load_recipe("r.yaml", env={})
        assert loaded.recipe.generation.model_dump(exclude_unset=True) == {
            "temperature": 0.2,
            "top_p": 0.3,
            "min_p": 0.1,
        }
        assert loaded.sources["generation.min_p"] == "one.yaml:2"
        assert loaded.sources["generation.top_p"] == "r.yaml:2"

    def test_shipped(self, load: Load) -> None:
        """A shipped recipe can be extended by name; its paths still lead to its files."""
        loaded = load("extends: demo\ntasks: [addition]")
        assert list(loaded.recipe.tasks) == ["addition"]
        assert loaded.recipe.tasks["addition"].params == {"form": "open", "n": 200}
        path = loaded.recipe.models["demo"].path
        assert path is not None
        expected = shipped_recipes()["demo"].parent.parent / "checkpoints"
        assert (loaded.base / path).resolve().parent.parent == expected.resolve()

    def test_paths_move(self, write: Write) -> None:
        """Relative paths of a file in another folder still lead where they led; others stay."""
        write(
            **{
                "r": "extends: sub/base.yaml\n",
                "sub/base": "models: {m: {path: ck}, n: {path: '~/ck'}, o: {path: '${env:P}'}, p: {hub: a/b}}\n"
                "tasks: {a: {data: {path: ../d}}, b: {}, c: null, d: {data: {sha256: null}}}\n"
                "cluster: {template: ./site.yaml}\nscoring: {image: python.sif}\n",
            }
        )
        loaded = load_recipe("r.yaml", env={"P": "q"})
        assert [model.path for model in loaded.recipe.models.values()] == [
            "sub/ck",
            "~/ck",
            "q",
            None,
        ]
        assert loaded.recipe.tasks["a"].data.path == "d"
        assert loaded.recipe.cluster == {"template": "sub/site.yaml"}
        assert loaded.recipe.scoring.image == "sub/python.sif"

    def test_null_clears(self, write: Write) -> None:
        """Null brings back the default, or is the value where the key takes null."""
        write(
            r="extends: base.yaml\nserving: {env: null, dtype: null, max_restarts: null}\n"
            "client: null\ngeneration: {seed: null}\ntasks: {a: null}\n",
            base="models: {m: /m}\nserving: {env: {A: b}, dtype: auto, max_restarts: 5}\n"
            "client: {max_retries: 1}\ngeneration: {seed: 5}\ntasks: {a: {limit: 3}}\n",
        )
        recipe = load_recipe("r.yaml", env={}).recipe
        assert isinstance(recipe.serving, VllmServing)
        assert (recipe.serving.env, recipe.serving.dtype, recipe.serving.max_restarts) == (
            {},
            None,
            2,
        )
        assert recipe.client.max_retries == 8
        assert recipe.generation.seed is None
        assert recipe.tasks["a"].limit is None

    def test_null_in_free_mapping(self, load: Load) -> None:
        """A variable set to null is not set; an option set to null is left out by the server."""
        serving = load("model: /m\ntasks: [a]\nserving: {env: {A: null}, extra_args: {x: null}}")
        assert isinstance(serving.recipe.serving, VllmServing)
        assert serving.recipe.serving.env == {}
        assert serving.recipe.serving.extra_args == {"x": None}

    def test_cycle(self, write: Write) -> None:
        """A recipe that extends itself is refused with the way it does."""
        write(r="extends: b.yaml", b="extends: r.yaml")
        with pytest.raises(RecipeError) as caught:
            load_recipe("r.yaml", env={})
        assert str(caught.value) == (
            "r.yaml: the recipe extends itself: r.yaml -> b.yaml -> r.yaml"
        )


class TestEnvironment:
    """`${env:...}`."""

    def test_values(self, load: Load) -> None:
        """A whole reference keeps its type, one inside text is text, a default stands in."""
        text = (
            "models: {m: '${env:D:-/d}/${env:M}'}\ntasks: {a: {limit: '${env:N}'}}\n"
            "description: '$${env:NO} ${env:EMPTY}|${env:EMPTY:-x}'\n"
            "generation: {temperature: '${env:T:-0.5}', stop: ['${env:M}']}\n"
            "output: {dir: '${env:EMPTY}'}\n"
        )
        recipe = load(text, env={"M": "m", "N": "7", "EMPTY": ""}).recipe
        assert recipe.models["m"].path == "/d/m"
        assert recipe.tasks["a"].limit == 7
        assert recipe.description == "${env:NO} |x"
        assert (recipe.generation.temperature, recipe.generation.stop) == (0.5, ("m",))
        assert recipe.output.dir == ""

    def test_missing(self, load: Load) -> None:
        """All variables that are not set are named at once, each with key and line."""
        text = "model: ${env:A}\ntasks: [x]\ngeneration:\n  temperature: ${env:B}\n"
        with pytest.raises(RecipeError) as caught:
            load(text)
        assert str(caught.value).splitlines() == [
            "r.yaml: 2 problems",
            "  r.yaml:4 generation.temperature: the environment variable B is not set. "
            "Set it, or give a default: ${env:B:-...}",
            "  r.yaml:1 models.model.path: the environment variable A is not set. "
            "Set it, or give a default: ${env:A:-...}",
        ]

    @pytest.mark.parametrize("text", ["${env:}", "${env:1}", "${env:A", "${env:A:x}"])
    def test_malformed(self, text: str, load: Load) -> None:
        """What begins like a reference and is none says how one reads."""
        with pytest.raises(RecipeError) as caught:
            load(f"model: /m\ntasks: [x]\ndescription: '{text}'")
        assert str(caught.value) == (
            "r.yaml:3 description: a reference reads ${env:NAME} or ${env:NAME:-default}"
        )

    def test_integer_for_text(self, load: Load) -> None:
        """A number from the environment is good where text is asked for."""
        text = "model: /m\ntasks: [x]\ncluster: {account: '${env:A}'}\nserving: {dtype: '${env:A}'}"
        serving = load(text, env={"A": "1234"}).recipe.serving
        assert isinstance(serving, VllmServing)
        assert serving.dtype == "1234"
