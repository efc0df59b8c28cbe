"""A target names a pipeline; one that does not is answered with a sentence that helps."""

from __future__ import annotations

import sys

import pytest

from asyncflow.cli.endings import CommandError
from asyncflow.cli.target import load_pipeline, split_target
from tests.cli.commanding import Commands

TWO = """
from asyncflow import Pipeline, step

@step
async def hello() -> str:
    return "hello"

crawl = Pipeline("crawl", steps=[hello])
train = Pipeline("train", steps=[hello])
"""
ONE = TWO.replace("train =", "also_crawl = crawl  #")
MAKERS = """
from asyncflow import Pipeline, step

@step
async def hello() -> str:
    return "hello"

def make(size=3, *rest, **more):
    return Pipeline("made", steps=[hello])

def needs(size):
    return make()

def forgets():
    make()

def fails():
    raise LookupError("no data here")

async def later():
    return make()

class catalogue:
    nightly = make()

number = 7
"""


@pytest.mark.parametrize(
    "target, place, name",
    [
        ("flow.py:main", "flow.py", "main"),
        ("flow.py", "flow.py", None),
        ("dir/flow.py:a.b", "dir/flow.py", "a.b"),
        ("package.module:main", "package.module", "main"),
        ("package.module", "package.module", None),
        (r"C:\work\flow.py:main", r"C:\work\flow.py", "main"),
        (r"C:\work\flow.py", r"C:\work\flow.py", None),
    ],
)
def test_a_target_is_a_place_and_maybe_a_name(target: str, place: str, name: str | None) -> None:
    assert split_target(target) == (place, name)


@pytest.mark.parametrize("target", ["", ":main", "flow.py:", "module:", "a:b:c.d:e "])
def test_half_a_target_is_refused(target: str) -> None:
    if target.count(":") > 1:
        assert split_target(target) == ("a", "b:c.d:e ")  # found out when the name is looked up
    else:
        with pytest.raises(CommandError, match=r"write file\.py:name or package\.module:name"):
            split_target(target)


def test_a_pipeline_is_found_by_its_name_in_a_file_or_a_module(commands: Commands) -> None:
    commands.write("flows.py", TWO)
    assert load_pipeline("flows.py:train").name == "train"
    assert load_pipeline("flows:crawl").name == "crawl"
    assert load_pipeline(str(commands.folder / "flows.py") + ":crawl").name == "crawl"


def test_the_name_may_be_left_out_where_there_is_one_pipeline(commands: Commands) -> None:
    commands.write("flows.py", ONE)
    assert load_pipeline("flows.py").name == "crawl"


def test_a_choice_between_several_is_left_to_the_caller(commands: Commands) -> None:
    commands.write("flows.py", TWO)
    with pytest.raises(CommandError) as refused:
        load_pipeline("flows.py")
    assert str(refused.value) == (
        "flows.py has 2 pipelines, 'crawl', 'train'; say which: flows.py:crawl"
    )


def test_a_function_may_make_the_pipeline(commands: Commands) -> None:
    commands.write("makers.py", MAKERS)
    assert load_pipeline("makers.py:make").name == "made"
    assert load_pipeline("makers.py:catalogue.nightly").name == "made"


@pytest.mark.parametrize(
    "target, sentence",
    [
        ("makers.py", "makers.py has no pipeline at its top level"),
        ("makers.py:mke", "makers.py has nothing called 'mke'; did you mean 'make'?"),
        ("makers.py:needs", r"makers.py:needs needs arguments \(size\)"),
        (
            "makers.py:forgets",
            "makers.py:forgets returned a value of type NoneType, not a Pipeline",
        ),
        ("makers.py:later", "makers.py:later returned a value of type coroutine, not a Pipeline"),
        ("makers.py:number", "makers.py:number is of type int, not a Pipeline"),
        ("makers.py:hello", "makers.py:hello is a step, not a Pipeline"),
        (
            "makers.py:fails",
            r"raised: LookupError: no data here \(makers.py, line 18\); --traceback shows more",
        ),
        ("maker.py:make", "there is no Python file 'maker.py'; did you mean 'makers.py'?"),
        ("elsewhere/makers.py:make", "there is no Python file 'elsewhere/makers.py'"),
        ("maker:make", "there is no module 'maker'; did you mean 'makers'?"),
        ("bare", "'bare' is a folder; name a file of Python or YAML in it, such as 'bare/a.yaml'"),
        ("./folder/data.csv", "'./folder/data.csv' is no Python file"),
        ("makers.sub:make", "there is no module 'makers.sub'"),
        ("folder.maker:make", "there is no module 'folder.maker'; did you mean 'folder.makers'?"),
    ],
)
def test_what_is_not_there_is_answered_with_a_sentence(
    commands: Commands, target: str, sentence: str
) -> None:
    commands.write("makers.py", MAKERS)
    commands.write("folder/__init__.py", "")
    commands.write("folder/makers.py", MAKERS)
    commands.write("folder/data.csv", "")
    commands.write("bare/a.yaml", "")
    with pytest.raises(CommandError, match=sentence):
        load_pipeline(target)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found' .flows.py, line 1."),
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero \(flows.py, line 2\)"),
        ("def f(:", r"SyntaxError: .* \(flows.py, line 1\); --traceback"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("from asyncflow import Pipeline\nPipeline('a/b')", "pipeline name 'a/b' holds '/'"),
    ],
)
@pytest.mark.parametrize("target", ["flows.py", "flows"])
def test_a_module_that_raises_is_named_with_the_line(
    commands: Commands, source: str, sentence: str, target: str
) -> None:
    commands.write("flows.py", source)
    with pytest.raises(CommandError, match=f"flows.* cannot be loaded: .*{sentence}"):
        load_pipeline(target)
    assert "flows" not in sys.modules


def test_a_file_in_a_package_may_import_its_neighbours(commands: Commands) -> None:
    commands.write("outer/__init__.py", "")
    commands.write("outer/inner/__init__.py", "")
    commands.write("outer/inner/parts.py", TWO)
    commands.write("outer/inner/flows.py", "from .parts import train")
    assert load_pipeline("outer/inner/flows.py").name == "train"


def test_a_file_may_be_called_like_a_module_in_use(commands: Commands) -> None:
    before = sys.modules["queue"]
    commands.write("queue.py", ONE)
    assert load_pipeline("queue.py").name == "crawl"
    assert sys.modules["queue"] is before


def test_such_a_file_has_no_steps_in_processes(commands: Commands) -> None:
    commands.write("queue.py", ONE.replace("@step", "@step(lane='process')"))
    with pytest.raises(
        CommandError, match=r"queue\.py has the name of a module .* rename the file"
    ):
        load_pipeline("queue.py")


def test_what_stands_under_a_main_guard_does_not_run(commands: Commands) -> None:
    commands.write("flows.py", ONE + "\nif __name__ == '__main__':\n    raise SystemExit(1)\n")
    assert load_pipeline("flows.py").name == "crawl"
