"""Requirements keep the user's spelling, refuse nonsense at once, and add up over a group."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.errors import GraphError
from asyncflow.resources import GPUConfig, NodeAffinity, ResourceRequirements, aggregate


def together(*requirements: ResourceRequirements | None) -> ResourceRequirements:
    found = aggregate(requirements, where="group 'g'")
    assert found is not None
    return found


# ---------------------------------------------------------------- records


def test_amounts_keep_the_spelling_they_were_given_in() -> None:
    asked = ResourceRequirements(cpu="8", memory="16Gi", storage="100G")
    assert (asked.cpu, asked.memory, asked.storage) == ("8", "16Gi", "100G")
    assert (asked.cpu_millis, asked.memory_bytes, asked.storage_bytes) == (
        8000,
        16 * 2**30,
        10**11,
    )


def test_what_is_not_asked_for_is_none() -> None:
    asked = ResourceRequirements()
    assert all(getattr(asked, name) is None for name in asked.__dataclass_fields__)


@pytest.mark.parametrize(
    "short, meant",
    [
        (1, GPUConfig(count=1)),
        (0.5, GPUConfig(count=0.5)),
        ("nvidia-a100", GPUConfig("nvidia-a100", count=1)),
        ({"gpu_type": "T4", "count": 2}, GPUConfig("T4", 2)),
        ({"memory": "16Gi"}, GPUConfig(memory="16Gi")),
        (GPUConfig("T4"), GPUConfig("T4")),
    ],
)
def test_gpus_have_short_spellings(short: Any, meant: GPUConfig) -> None:
    assert ResourceRequirements(gpu=short).gpu == meant


def test_a_share_of_a_gpu_is_counted_in_millionths() -> None:
    whole, tenth, third = GPUConfig(count=2), GPUConfig(count=0.1), GPUConfig(count=1 / 3)
    assert (whole.devices, whole.micro_units) == (2, 0)
    assert (tenth.devices, tenth.micro_units) == (0, 100_000)
    assert 3 * third.micro_units <= 1_000_000


@pytest.mark.parametrize("count", [0, 0.0, -1, 1.5, 1e-9, float("nan"), float("inf"), 2**63])
def test_a_senseless_number_of_gpus_is_refused(count: float) -> None:
    with pytest.raises(ValueError, match="GPU"):
        GPUConfig(count=count)


def test_zero_gpus_are_answered_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="leave gpu out"):
        ResourceRequirements(gpu=0)


@pytest.mark.parametrize("wrong", [True, "2", [1]])
def test_a_number_of_gpus_is_a_number(wrong: Any) -> None:
    with pytest.raises(TypeError, match="number of GPUs"):
        GPUConfig(count=wrong)


@pytest.mark.parametrize("wrong", ["", "  ", "2", "0.5"])
def test_a_gpu_type_names_a_model(wrong: str) -> None:
    with pytest.raises(ValueError, match="names no model"):
        ResourceRequirements(gpu=wrong)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"cpu": "many"}, "^cpu: 'many' is not"),
        ({"memory": -1}, "^memory: -1 is not"),
        ({"storage": "1XB"}, "^storage: '1XB' has the unknown unit"),
        ({"gpu": {"memory": "lots"}}, "^gpu: 'lots' is not"),
    ],
)
def test_a_wrong_amount_is_refused_with_the_name_of_its_field(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ResourceRequirements(**fields)


@pytest.mark.parametrize(
    "mapping, message",
    [
        ({"cpus": 2}, r"unknown key 'cpus' \(did you mean 'cpu'\?\)"),
        ({"gpu": {"type": "T4"}}, r"unknown key 'type' \(did you mean 'gpu_type'\?\)"),
        ({"node_affinity": {"require": {}}}, r"did you mean 'required'\?"),
        ({1: 2}, "unknown key 1;"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(
    mapping: dict[Any, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        ResourceRequirements.of(mapping)


@pytest.mark.parametrize("wrong", [4, "4", ["cpu"]])
def test_requirements_are_a_mapping_or_nothing(wrong: Any) -> None:
    with pytest.raises(TypeError, match="does not describe resources"):
        ResourceRequirements.of(wrong)


def test_requirements_of_something_are_that_thing() -> None:
    asked = ResourceRequirements(cpu=1)
    assert ResourceRequirements.of(None) is None
    assert ResourceRequirements.of(asked) is asked
    assert ResourceRequirements.of({"cpu": 1}) == asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"required": {"zone": 1}},
        {"required": ["zone"]},
        {"preferred": {1: "x"}},
        {"tolerations": "spot"},
        {"tolerations": [{"key": "spot"}]},
        {"tolerations": [""]},
        "zone",
    ],
)
def test_labels_and_tolerations_are_text(wrong: Any) -> None:
    with pytest.raises(TypeError, match="node_affinity"):
        ResourceRequirements(node_affinity=wrong)


def test_labels_do_not_change_with_the_mapping_they_came_from() -> None:
    labels = {"zone": "north"}
    affinity = NodeAffinity(labels)
    labels["zone"] = "south"
    assert affinity.required == {"zone": "north"}


def test_records_hash_compare_and_pickle_by_value() -> None:
    def make() -> ResourceRequirements:
        affinity = NodeAffinity({"a": "1", "b": "2"}, {"c": "3"}, ["spot"])
        return ResourceRequirements("2", "1Gi", None, GPUConfig("T4", 0.5), affinity)

    one = make()
    assert {one: "found"}[make()] == "found"
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(one)).memory_bytes == 2**30


@pytest.mark.parametrize("record", [ResourceRequirements(), GPUConfig(), NodeAffinity()])
def test_records_are_frozen(record: Any) -> None:
    name = next(iter(record.__dataclass_fields__))
    with pytest.raises(AttributeError):
        setattr(record, name, "changed")


# ------------------------------------------------------------ aggregation


def test_the_largest_amount_wins_and_keeps_its_spelling() -> None:
    joined = together(
        ResourceRequirements(cpu="2", memory="8Gi", storage="1TB"),
        ResourceRequirements(cpu="4000m", memory="16Gi"),
        ResourceRequirements(cpu=3, memory="9G", storage="5Gi"),
    )
    assert (joined.cpu, joined.memory, joined.storage) == ("4000m", "16Gi", "1TB")


def test_of_equal_amounts_the_first_spelling_stays() -> None:
    joined = together(ResourceRequirements(cpu="1000m"), ResourceRequirements(cpu=1))
    assert joined.cpu == "1000m"


def test_a_zero_that_was_asked_for_beats_nothing() -> None:
    assert together(ResourceRequirements(), ResourceRequirements(cpu=0)).cpu == 0


def test_steps_that_ask_for_nothing_leave_a_group_without_requirements() -> None:
    assert aggregate([], where="group 'g'") is None
    assert aggregate([None, None], where="group 'g'") is None
    assert together(None, ResourceRequirements(cpu=1)) == ResourceRequirements(cpu=1)


def test_gpus_join_the_largest_count_the_largest_memory_and_the_best_type() -> None:
    joined = together(
        ResourceRequirements(gpu=GPUConfig("nvidia-tesla-t4", 4, "16Gi")),
        ResourceRequirements(gpu=GPUConfig("nvidia-a100", 1, "40Gi")),
        ResourceRequirements(gpu=0.5),
    )
    assert joined.gpu == GPUConfig("nvidia-a100", 4, "40Gi")


@pytest.mark.parametrize(
    "types, best",
    [
        (["H100", "T4"], "H100"),
        (["T4", "H100"], "H100"),
        (["T4", "A100"], "A100"),
        (["nvidia-tesla-v100", "nvidia-a100", "nvidia-tesla-t4"], "nvidia-a100"),
        (["quantum-9", "K80"], "K80"),
        (["quantum-9", "quantum-1"], "quantum-9"),
        ([None, "quantum-1"], "quantum-1"),
        (["A100", "NVIDIA A100-SXM4-80GB"], "A100"),
        ([None, None], None),
    ],
)
def test_the_best_gpu_type_wins(types: list[str | None], best: str | None) -> None:
    joined = together(*(ResourceRequirements(gpu=GPUConfig(kind)) for kind in types))
    assert joined.gpu is not None
    assert joined.gpu.gpu_type == best


def test_a_whole_gpu_beats_a_share() -> None:
    joined = together(ResourceRequirements(gpu=0.75), ResourceRequirements(gpu=1))
    assert joined.gpu == GPUConfig(count=1)


def test_labels_and_tolerations_are_joined_in_order() -> None:
    joined = together(
        ResourceRequirements(node_affinity=NodeAffinity({"a": "1"}, {"p": "x"}, ["t2", "t1"])),
        ResourceRequirements(node_affinity=NodeAffinity({"b": "2"}, {"p": "y", "q": "z"}, ["t1"])),
        ResourceRequirements(node_affinity=NodeAffinity({"a": "1"}, {}, ["t0"])),
    )
    affinity = joined.node_affinity
    assert affinity is not None
    assert affinity.required == {"a": "1", "b": "2"}
    assert affinity.preferred == {"p": "x", "q": "z"}
    assert affinity.tolerations == ("t2", "t1", "t0")


def test_two_values_for_one_required_label_are_an_error_that_names_them() -> None:
    north = ResourceRequirements(node_affinity={"required": {"zone": "north"}})
    south = ResourceRequirements(node_affinity={"required": {"zone": "south"}})
    with pytest.raises(GraphError, match=r"group 'g' requires the label 'zone'.*'north'.*'south'"):
        together(north, south)


amounts = st.none() | st.integers(0, 64) | st.sampled_from(["500m", "2", "2.5", 0.5])
memories = st.none() | st.integers(0, 2**40) | st.sampled_from(["1Gi", "1GB", "512Mi"])
gpus = st.none() | st.builds(
    GPUConfig,
    st.none() | st.sampled_from(["A100", "t4", "nvidia-h100", "quantum-1"]),
    st.integers(1, 8) | st.sampled_from([0.1, 0.5]),
    memories,
)
requirements = st.none() | st.builds(
    ResourceRequirements, cpu=amounts, memory=memories, storage=memories, gpu=gpus
)


@given(st.lists(requirements, max_size=5), st.integers(0, 5))
def test_joining_in_two_parts_is_joining_at_once(
    asked: list[ResourceRequirements | None], cut: int
) -> None:
    first, second = (aggregate(part, where="g") for part in (asked[:cut], asked[cut:]))
    assert aggregate([first, second], where="g") == aggregate(asked, where="g")
