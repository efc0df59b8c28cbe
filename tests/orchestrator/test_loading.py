"""From files and mappings to one configuration: formats, scalars, overlays, overrides."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow import Secret
from asyncflow.errors import ConfigError
from asyncflow.orchestrator import PipelineOrchestrator
from asyncflow.orchestrator.config import load_config
from asyncflow.orchestrator.json_text import parse_json
from asyncflow.orchestrator.knots import Knot, Problems, shown_path
from asyncflow.orchestrator.merging import parse_set
from asyncflow.orchestrator.scalars import scalar_of
from asyncflow.orchestrator.toml_text import parse_toml
from asyncflow.orchestrator.yaml_text import parse_yaml
from tests.orchestrator.projects import Project

MODULE = {"name": "a", "path": "m:A"}


def described(**more: Any) -> dict[str, Any]:
    return {"pipeline": {"name": "p", "modules": [MODULE], **more}}


def faults(*arguments: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **options)
    return caught.value.problems


def value_of(yaml: str) -> Any:
    problems = Problems()
    knot = parse_yaml(yaml, "y", problems)
    problems.raise_if_any()
    assert knot is not None
    return knot.plain()


@pytest.mark.parametrize(
    "word, value",
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
    ],
)
def test_words_that_mean_something(word: str, value: object) -> None:
    found = scalar_of(word)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "word",
    [
        *("no", "yes", "on", "off", "y", "n", "NO", "tRUE", "nil", "None"),
        *("12:30:00", "1:30", "007", "0777", "1_000", "0b11", "0x", "1e", "e5", ".", "-", "+"),
        *("2024-01-01", "2024-01-01T00:00:00Z", "1.2.3", "=", "<<", "inf", "nan", "9" * 65),
        *("१", "1e99999"),
    ],
)
def test_words_that_are_text(word: str) -> None:
    assert scalar_of(word) == word


def test_keys_are_text_as_they_are_written() -> None:
    assert value_of("{no: 1, 1: 2, on: 3, 1.10: 4, null: 5}") == {
        "no": 1,
        "1": 2,
        "on": 3,
        "1.10": 4,
        "null": 5,
    }


def test_quoted_and_block_scalars_are_text() -> None:
    text = "a: '1'\nb: \"true\"\nc: |\n  1\n  2\nd: >\n  no\n  yes\n"
    assert value_of(text) == {"a": "1", "b": "true", "c": "1\n2\n", "d": "no yes\n"}


def test_json_is_read_as_the_standard_library_reads_it() -> None:
    text = '{"a": [1, -2.5, 1e3, true, false, null, "\\u00e9\\n\\ud83d\\ude00", {}, []], "": 0}'
    problems = Problems()
    knot = parse_json(text, "j", problems)
    assert knot is not None
    assert knot.plain() == json.loads(text)
    assert not problems


FORMATS = {
    "pipeline.yaml": """
        pipeline:
          name: p
          resources: {max_cpus: 2}
          modules:
            - name: a
              path: "m:A"
              params: {x: 1, y: [1.5, true, "no"]}
              resources: {memory: 4Gi}
            - {name: b, script: "s.py:f", depends_on: [a]}
    """,
    "pipeline.json": """
        {"pipeline": {"name": "p", "resources": {"max_cpus": 2}, "modules": [
          {"name": "a", "path": "m:A", "params": {"x": 1, "y": [1.5, true, "no"]},
           "resources": {"memory": "4Gi"}},
          {"name": "b", "script": "s.py:f", "depends_on": ["a"]}]}}
    """,
    "pipeline.toml": """
        [pipeline]
        name = "p"
        resources.max_cpus = 2

        [[pipeline.modules]]
        name = "a"
        path = "m:A"
        params = { x = 1, y = [1.5, true, "no"] }
        resources.memory = "4Gi"

        [[pipeline.modules]]
        name = "b"
        script = "s.py:f"
        depends_on = ["a"]
    """,
}


def test_all_formats_say_the_same(project: Project) -> None:
    read = [load_config(project.write(name, text)).config for name, text in FORMATS.items()]
    assert read[0] == read[1] == read[2]
    assert read[0].modules[0].params == {"x": 1, "y": [1.5, True, "no"]}


def test_a_mapping_will_do() -> None:
    config = PipelineOrchestrator(described()).config
    assert (config.name, config.modules[0].resources.cpus) == ("p", 1)
    assert faults({"pipeline": {"name": "p", "modules": [{"nam": "a", "path": "m:A"}]}}) == (
        "the configuration: $.pipeline.modules[0].nam: is no known key; did you mean 'name'?",
        "the configuration: $.pipeline.modules[0]: lacks the key 'name'",
    )


def test_what_is_neither_a_path_nor_a_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match="by a path or a mapping"):
        load_config(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a list of files"):
        load_config(described(), overlays="more.yaml")


def test_a_mapping_that_holds_itself_or_keys_that_are_no_text() -> None:
    circle: dict[str, Any] = described()
    circle["pipeline"]["modules"] = [{**MODULE, "params": circle}]
    assert "nests deeper than 100 levels" in faults(circle)[0]
    numbers = described(modules=[{**MODULE, "params": {1: 2}}])
    assert "has the key 1, which is no text; write '1'" in faults(numbers)[0]


# -- overlays and overrides ------------------------------------------------------------------


def test_an_overlay_replaces_values_and_merges_modules_by_name(project: Project) -> None:
    base = project.write("pipeline.yaml", FORMATS["pipeline.yaml"])
    over = project.write(
        "over.yaml",
        """
        pipeline:
          resources: {max_gpus: 1}
          modules:
            - {name: b, resources: {gpus: 1}, depends_on: []}
            - {name: c, script: "s.py:g"}
        """,
    )
    config = load_config(base, overlays=[over]).config
    assert (config.resources.max_cpus, config.resources.max_gpus) == (2, 1)
    assert [module.name for module in config.modules] == ["a", "b", "c"]
    assert config.modules[1].script == "s.py:f"
    assert (config.modules[1].resources.gpus, config.modules[1].depends_on) == (1, [])


def test_the_last_overlay_wins_and_an_override_over_it() -> None:
    overlays = [{"pipeline": {"execution": {"mode": mode}}} for mode in ("parallel", "sequential")]
    assert load_config(described(), overlays).config.execution.mode == "sequential"
    overrides = {"execution.mode": "parallel"}
    assert load_config(described(), overlays, overrides).config.execution.mode == "parallel"


def test_a_fault_of_an_overlay_is_told_with_its_own_file_and_line(project: Project) -> None:
    base = project.write("pipeline.yaml", FORMATS["pipeline.yaml"])
    over = project.write("over.yaml", "pipeline:\n  resources:\n    max_gpus: many\n")
    assert faults(base, [over]) == (
        f"{over}:3:15: $.pipeline.resources.max_gpus: takes a whole number or a list, got the "
        "text 'many'",
    )


def test_faults_of_several_files_are_told_at_once(project: Project) -> None:
    first = project.write("first.yaml", "pipeline: [\n")
    second = project.write("second.json", "{\n")
    assert len(faults(first, [second, "third.toml"])) == 3


def test_overrides_are_dotted_keys(project: Project) -> None:
    loaded = load_config(
        project.write("pipeline.yaml", FORMATS["pipeline.yaml"]),
        overrides={
            "execution.mode": "sequential",
            "pipeline.resources.max_cpus": 8,
            "modules.a.params.x": [1, 2],
            "modules.a.params.deep.er": "new",
            "modules.b.resources": {"gpus": 0.5},
        },
    ).config
    assert (loaded.execution.mode, loaded.resources.max_cpus) == ("sequential", 8)
    assert loaded.modules[0].params["x"] == [1, 2]
    assert loaded.modules[0].params["deep"] == {"er": "new"}
    assert loaded.modules[1].resources.gpus == 0.5


def test_a_module_whose_name_has_dots_can_be_overridden() -> None:
    modules = [{"name": "a", "path": "m:A"}, {"name": "a.b", "path": "m:B"}]
    loaded = load_config(described(modules=modules), overrides={"modules.a.b.timeout": 3}).config
    assert [module.timeout for module in loaded.modules] == [None, 3]


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        (
            "execution.mod",
            "x",
            "override execution.mod: $.pipeline.execution.mod: is no known key; did you mean "
            "'mode'?",
        ),
        (
            "execution.mode",
            3,
            "override execution.mode: $.pipeline.execution.mode: is 'parallel' or 'sequential', "
            "not 3",
        ),
        (
            "modules.z.timeout",
            3,
            "override modules.z.timeout: names no module and a key of it; write modules.NAME.key",
        ),
        ("name.x", 1, "override name.x: goes through 'name', which has no keys"),
        ("a..b", 1, "override a..b: is no dotted key; write one such as execution.mode"),
    ],
)
def test_what_is_wrong_with_an_override(key: str, value: object, sentence: str) -> None:
    assert faults(described(), overrides={key: value}) == (sentence,)


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("a.b=3", ("a.b", 3)),
        ("a=no", ("a", "no")),
        ("a=", ("a", None)),
        ('a=[1, "x"]', ("a", [1, "x"])),
        ('a={"b": true}', ("a", {"b": True})),
        ('a="007"', ("a", "007")),
        ("a=x=y", ("a", "x=y")),
    ],
)
def test_set_takes_words_and_json(argument: str, expected: tuple[str, object]) -> None:
    assert parse_set(argument) == expected


@pytest.mark.parametrize("argument", ["a", "=3", "a=[1", " =3"])
def test_set_that_cannot_be_read(argument: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_set(argument)


# -- places ----------------------------------------------------------------------------------


def test_paths_are_shown_as_people_write_them() -> None:
    assert shown_path(()) == "$"
    assert (
        shown_path(("pipeline", "modules", 2, "a-b", "x y")) == "$.pipeline.modules[2].a-b['x y']"
    )


def test_every_value_knows_its_line() -> None:
    problems = Problems()
    root = parse_yaml("a:\n  - b: 1\n    c:   two\n", "f.yaml", problems)
    assert root is not None
    found = root.at(("a", 0, "c"))
    assert isinstance(found, Knot)
    assert (str(found.mark), str(found.key_mark)) == ("f.yaml:3:10", "f.yaml:3:5")
    assert root.at(("a", 1)) is None


def test_of_very_many_faults_the_first_hundred_are_told() -> None:
    modules = [{**MODULE, "name": f"m{n}", "x": 1} for n in range(300)]
    found = faults(described(modules=modules))
    assert len(found) == 101
    assert found[-1] == "… and 200 more faults"


def test_hints_stop_where_a_file_is_wrong_all_over() -> None:
    modules = [{**MODULE, "name": f"module-{n}", "depends_on": [f"modul-{n}"]} for n in range(60)]
    found = faults(described(modules=modules))
    assert len(found) == 60
    # Each looks at all names, of which a large file has thousands.
    assert ["did you mean" in sentence for sentence in found] == [True] * 20 + [False] * 40


# -- the environment -------------------------------------------------------------------------


def test_a_variable_is_read_when_the_run_starts_and_is_a_secret(
    project: Project, monkeypatch: pytest.MonkeyPatch, worker_type: str
) -> None:
    project.write(
        "m.py",
        """
        def run(context):
            token = context.params["deep"][0]["token"]
            [in_task] = context.execute_tasks([lambda: context.params["deep"][0]["token"].reveal()])
            assert in_task == token.reveal()
            return type(token).__name__, str(token), token.reveal(), context.params["text"]
        """,
    )
    orchestrator = project.orchestrator(
        f"""
        pipeline:
          name: secrets
          execution: {{worker_type: {worker_type}}}
          modules:
            - name: m
              script: "m.py:run"
              params:
                deep: [{{token: {{from_env: ASYNCFLOW_TEST_TOKEN}}}}]
                text: "$HOME ${{HOME}} %HOME%"
        """
    )
    monkeypatch.setenv("ASYNCFLOW_TEST_TOKEN", "canary-4711")
    results = orchestrator.execute_sync()
    assert results["m"] == ("Secret", "***", "canary-4711", "$HOME ${HOME} %HOME%")


def test_a_variable_that_is_not_there_is_told_with_its_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASYNCFLOW_TEST_TOKEN", raising=False)
    orchestrator = project.orchestrator(
        """\
        pipeline:
          name: p
          modules:
            - name: m
              script: "m.py:run"
              params:
                token: {from_env: ASYNCFLOW_TEST_TOKEN}
        """
    )
    with pytest.raises(ConfigError) as caught:
        orchestrator.execute_sync()
    assert "pipeline.yaml:7:16: $.pipeline.modules[0].params.token: the environment has no " in str(
        caught.value
    )


async def test_a_secret_is_written_nowhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, worker_type: str
) -> None:
    monkeypatch.setenv("ASYNCFLOW_TEST_TOKEN", "canary-4711")
    project.write("m.py", "def run(context):\n    print(context.params)\n    return 1\n")
    orchestrator = project.orchestrator(
        f"""
        pipeline:
          name: secrets
          execution: {{worker_type: {worker_type}}}
          modules:
            - {{name: m, script: "m.py:run", params: {{t: {{from_env: ASYNCFLOW_TEST_TOKEN}}}}}}
        """
    )
    events = []
    async with orchestrator.start() as run:
        async for event in run.events():
            events.append(event)
    assert b"canary" not in msgspec.json.encode(events)
    written = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file()]
    assert not any(b"canary" in content for content in written)
    assert any(b"***" in content for content in written)
    assert repr(Secret("x")) in project.read(".checkpoints/runs/secrets/logs/m.log")


def test_relative_paths_are_relative_to_the_file(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.write("deep/scripts/m.py", "def run(context): return 'here'\n")
    project.write(
        "deep/pipeline.yaml",
        """
        pipeline:
          name: p
          checkpoint: {directory: ./kept}
          modules: [{name: m, script: "scripts/m.py:run"}]
        """,
    )
    monkeypatch.chdir(tmp_path)
    orchestrator = PipelineOrchestrator(config_path="deep/pipeline.yaml")
    assert orchestrator.execute_sync() == {"m": "here"}
    assert orchestrator.run_folder == tmp_path / "deep" / "kept" / "runs" / "p"


def test_every_value_of_toml_knows_its_line_too() -> None:
    text = textwrap.dedent(
        """\
        # a comment = with [brackets]
        [pipeline]
        name = "p # no comment"
        resources.max_cpus = 2
        "quoted key" = '''
        [not.a.table]
        '''

        [pipeline.execution]
        mode = "parallel"   # a comment

        [[pipeline.modules]]
        name = "a"
        params = { x = 1, y = [
          1,  # [[pipeline.modules]]
          2,
        ] }

          [[pipeline.modules]]
        name = "b"
        [pipeline.modules.resources]
        gpus = 1
        """
    )
    problems = Problems()
    root = parse_toml(text, "f.toml", problems)
    assert root is not None
    assert not problems
    marks = {
        ("pipeline", "name"): "f.toml:3:8",
        ("pipeline", "resources", "max_cpus"): "f.toml:4:22",
        ("pipeline", "quoted key"): "f.toml:5:16",
        ("pipeline", "execution"): "f.toml:9:1",
        ("pipeline", "execution", "mode"): "f.toml:10:8",
        ("pipeline", "modules", 0, "name"): "f.toml:13:8",
        ("pipeline", "modules", 0, "params", "y", 1): "f.toml:14:10",
        ("pipeline", "modules", 1): "f.toml:19:3",
        ("pipeline", "modules", 1, "resources", "gpus"): "f.toml:22:8",
    }
    for path, mark in marks.items():
        found = root.at(path)
        assert found is not None
        assert (path, str(found.mark)) == (path, mark)
