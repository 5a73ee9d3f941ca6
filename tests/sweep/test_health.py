"""Sick nodes: examples, and properties of records drawn at random."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dira_scale.sweep.health import sick_nodes
from dira_scale.sweep.records import Try


def ran(node: str, code: int | None, when: float = 0.0, step: int | None = None) -> Try:
    return Try(0, "slurm", "1", 0, node.split("+"), when, None if code is None else when + 0.5, code, None, step)


@pytest.mark.parametrize(
    ("records", "sick"),
    [
        ({"p/a": [ran("n1", 1, 0), ran("n1", 1, 1), ran("n2", 0, 2)]}, ["n1"]),
        ({"p/a": [ran("n1", 1), ran("n2", 0)], "p/b": [ran("n1", -9), ran("n3", 75)]}, ["n1"]),
        ({"p/a": [ran("n1", 1, 0), ran("n2", 0, 1)]}, []),  # once may be chance
        ({"p/a": [ran("n1", 1, i) for i in range(3)]}, []),  # nobody knows better
        ({"p/a": [ran("n1", 1, i) for i in range(2)], "p/b": [ran("n2", 0)]}, ["n1"]),  # its siblings do well elsewhere
        ({"p/a": [ran("n1", 1, i) for i in range(2)], "q/b": [ran("n2", 0)]}, []),  # another phase says nothing
        ({"p/a": [ran("n1", 1), ran("n1", 1), ran("n2", 1)], "p/b": [ran("n2", 0)]}, []),  # the run's own fault
        ({"p/a": [ran("n1", 2, i) for i in range(3)] + [ran("n2", 0)]}, []),  # bad input
        ({"p/a": [ran("n1", 75, i) for i in range(3)] + [ran("n2", 0)]}, []),  # preempted
        ({"p/a": [ran("n1", 1, 0), ran("n1", 1, 1), ran("n2", 0, 2)], "p/b": [ran("n1", 0, 3)]}, []),  # well again
        ({"p/a": [ran("n1", None, 0), ran("n1", None, 1), ran("n2", 1, 2, step=7)]}, ["n1"]),  # killed; n2 made steps
        ({"p/a": [ran("n1+n2", 1, 0), ran("n1+n2", 1, 1), ran("n1+n3", 0, 2)]}, ["n2"]),
        ({"p/a": [ran("n1", 1, 0), ran("n1", 1, 1), ran("n2", 0, 2)],
          "p/b": [ran("n2", 1, 3), ran("n2", 1, 4), ran("n3", 1, 5), ran("n1", 0, -1)]}, []),  # no healthy one is left
    ],
)  # fmt: skip
def test_examples(records: dict[str, list[Try]], sick: list[str]) -> None:
    assert sorted(sick_nodes(records)) == sick


codes = st.sampled_from([None, 0, 1, 2, 75, -9])
records = st.dictionaries(
    st.sampled_from(["p/a", "p/b", "p/c", "q/d"]),
    st.lists(st.builds(ran, st.sampled_from(["n1", "n2", "n1+n2"]), codes, st.floats(0, 9), st.none()), max_size=5),
)


@given(records)
def test_properties(tries: dict[str, list[Try]]) -> None:
    sick = sick_nodes(tries)
    every = [ran for of in tries.values() for ran in of]
    nodes = {node for ran in every for node in ran.nodes}
    assert not sick or sick.keys() < nodes  # one that has worked is left
    for node, why in sick.items():
        here = [ran for ran in every if node in ran.nodes]
        assert sum(ran.exit_code not in (0, 2, 75) for ran in here) >= 2
        assert any(ran.exit_code in (0, 75) for ran in every if node not in ran.nodes)
        assert "tries of" in why


def test_a_node_with_nothing_but_good_ends_is_never_sick() -> None:
    assert sick_nodes({f"p/{i}": [ran("n1", 0, i), ran("n2", 1, i)] for i in range(9)}).keys() <= {"n2"}
