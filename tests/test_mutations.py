"""The planted faults of mutations.py still fit the code: each text is found once, each test is there."""

from mutations import MUTATIONS, check


def test_every_fault_can_be_planted() -> None:
    for mutation in MUTATIONS:
        check(mutation)
