"""The planted faults of mutations.py still fit the code: each text is found once, each test is there."""

import pytest
from mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_can_be_planted(mutation: Mutation) -> None:
    assert (ROOT / "dira_scale" / mutation.file).read_text().count(mutation.old) == 1 and mutation.new != mutation.old
    assert mutation.tests and all((ROOT / "tests" / test.split("::")[0]).is_file() for test in mutation.tests)
