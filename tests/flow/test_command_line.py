"""``python project.py …`` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.scripts import Script

TWO_STAGES = """
    from asyncflow.flow import FlowProject

    class Project(FlowProject):
        pass

    ex = Project.make_group("ex")

    @Project.label
    def finished(job):
        return job.document.get("two", False)

    @ex
    @Project.post.true("one")
    @Project.operation
    def op1(job):
        print("op1 on", job.sp.i)
        job.document.one = True

    @ex
    @Project.pre.after(op1)
    @Project.post.true("two")
    @Project.operation
    def op2(job):
        print("op2 on", job.sp.i)
        if job.document.get("fail"):
            raise RuntimeError("no paper")
        job.document.two = True

    if __name__ == "__main__":
        Project().main()
"""


@pytest.fixture
def script(data_space: Callable[..., str]) -> Script:
    return Script(Path(data_space(3)), TWO_STAGES)


def test_run_executes_everything(script: Script) -> None:
    answer = script("run")
    assert answer.code == 0, answer
    assert sorted(answer.lines) == [f"op{op} on {i}" for op in (1, 2) for i in range(3)]
    assert script("run").out == ""


def test_run_takes_groups_and_patterns(script: Script) -> None:
    assert len(script("run", "-o", "op1").lines) == 3
    assert script("run", "-o", "ex").code == 0
    assert json.loads(script("status", "--json", "--ignore-errors").out)["labels"] == {
        "finished": 3
    }


@pytest.mark.parametrize(
    "words, told",
    [
        (["run", "-o", "nope"], "there is no operation or group 'nope'; there are: op1, op2, ex"),
        (["run", "-o", "op1", "ex"], "included twice"),
        (["run", "-j", "123", "-f", "i", "0"], "cannot go together"),
        (["run", "-j", "zzz"], "there is no job 'zzz'"),
        (["run", "--order", "alphabetic"], "invalid choice"),
        (["run", "--ignore-conditions", "some"], "takes none, pre, post or all"),
        (["run", "-p", "-3"], "np takes"),
        (["exec", "nope"], "there is no operation or group 'nope'"),
        (["next", "nope"], "there is no operation 'nope'"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_request_ends_with_2_and_says_why(
    script: Script, words: list[str], told: str
) -> None:
    answer = script(*words)
    assert answer.code == 2, answer
    assert told in answer.err
    assert "Traceback" not in answer.err


def test_a_failure_ends_with_1_and_names_operation_and_job(script: Script) -> None:
    script.path.write_text(script.path.read_text().replace('"fail"', '"one"'))
    answer = script("run")
    assert answer.code == 1
    assert answer.err.startswith("error: 'op2' failed on")
    assert "no paper" in answer.err
    assert "ERROR" not in answer.err  # what the log of a failed run would say again


@pytest.mark.parametrize("words", [["--debug", "next", "nope"], ["next", "nope", "--debug"]])
def test_debug_shows_the_traceback(script: Script, words: list[str]) -> None:
    with pytest.raises(ValueError, match="there is no operation 'nope'"):
        script(*words)


def test_jobs_are_selected_by_the_beginning_of_an_id_and_by_filter(script: Script) -> None:
    job_id = script("next", "op1").lines[0]
    assert len(script("run", "-o", "op1", "-j", job_id[:8]).lines) == 1
    assert script("run", "-o", "op1", "-f", "i", "2").code == 0
    assert script("run", "-n", "1").lines


def test_a_filter_that_nothing_matches_is_told(script: Script) -> None:
    answer = script("run", "-f", "i", "77")
    assert answer.code == 0
    assert "warning: no job matches the filter" in answer.err


def test_it_is_told_that_more_is_to_be_done_than_was_asked_for(script: Script) -> None:
    told = "warning: num (-n) ended the run; there is more to do\n"
    assert script("run", "-n", "2").err == told
    assert script("run", "-o", "op1", "-n", "1").err == ""


def test_exec_executes_whatever_the_conditions_say(script: Script) -> None:
    job_id = script("next", "op1").lines[0]
    assert len(script("exec", "op2", job_id).lines) == 1
    assert len(script("exec", "op2").lines) == 3
    answer = script("exec", "ex", job_id)
    assert [line.split()[0] for line in answer.lines] == ["op1", "op2"], answer


def test_next_lists_jobs(script: Script) -> None:
    assert len(script("next", "op1").lines) == 3
    assert script("next", "op2").lines == []


def test_pretend_prints_commands_that_work_and_leaves_no_trace(script: Script) -> None:
    before = sorted(script.directory.rglob("*"))
    answer = script("run", "--pretend")
    assert len(answer.lines) == 3
    assert all(f"{script.path} exec op1" in line for line in answer.lines)
    assert [path for path in sorted(script.directory.rglob("*")) if path not in before] == []


def test_progress_is_shown_on_the_error_stream(script: Script) -> None:
    answer = script("run", "--progress")
    assert answer.code == 0
    assert "Project" in answer.err


def test_keep_going_executes_the_rest(script: Script) -> None:
    script.path.write_text(
        script.path.read_text().replace('job.document.get("fail")', "job.sp.i == 0")
    )
    answer = script("run", "--keep-going")
    assert answer.code == 1
    assert json.loads(script("status", "--json", "--ignore-errors").out)["labels"] == {
        "finished": 2
    }


def test_outside_of_a_project_it_says_what_to_do(tmp_path: Path) -> None:
    answer = Script(tmp_path, TWO_STAGES).alone("run")
    assert answer.code == 2
    assert answer.err == (
        f"error: there is no signac project in {tmp_path}; 'signac init' there makes one, or cd "
        "to that of your jobs\n"
    )


def test_below_a_project_it_says_where_that_is(script: Script) -> None:
    below = script.directory / "src"
    below.mkdir()
    answer = Script(below, TWO_STAGES).alone("status")
    assert answer.code == 2
    assert answer.err.endswith(f"but above it in {script.directory}; cd there\n")


def test_debug_shows_where_a_project_was_looked_for(tmp_path: Path) -> None:
    answer = Script(tmp_path, TWO_STAGES).alone("run", "--debug")
    assert "Traceback" in answer.err


def test_a_project_that_contradicts_itself_is_refused_in_a_line(script: Script) -> None:
    directives = (
        "@ex\n{0}@Project.operation(directives={{'queue': '{1}'}})\n{0}def more{1}(job): ..."
    )
    more = "\n\n".join(directives.format("", queue) for queue in "ab")
    script.path.write_text(script.path.read_text().replace("if __name__", f"{more}\n\nif __name__"))
    answer = script.alone("run")
    assert answer.code == 2
    assert answer.err.startswith("error: group 'ex': directive 'queue' is 'a'")


def test_a_script_that_catches_the_error_goes_on(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """
        import signac
        from asyncflow.flow import FlowProject

        class Project(FlowProject):
            pass

        try:
            Project()
        except LookupError:
            signac.init_project()
        Project().main()
        """,
    )
    assert script.alone("run").code == 0
