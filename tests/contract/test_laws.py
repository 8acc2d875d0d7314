import pytest

from onlyforward.testing.allocations import check_allocation
from onlyforward.testing.members import ALLOCATIONS, PERTURBATIONS, WEIGHTINGS
from onlyforward.testing.perturbations import all_digests, check_perturbation, check_pure
from onlyforward.testing.sabotage import SABOTAGES, caught
from onlyforward.testing.weightings import check_weighting


@pytest.mark.parametrize("member", PERTURBATIONS, ids=lambda member: member.name)
def test_every_perturbation_obeys_the_laws(member):
    assert check_perturbation(member.perturbation, member.problem(), copies=member.copies, random=member.random) <= 4.5


@pytest.mark.parametrize("member", WEIGHTINGS, ids=lambda member: member.name)
def test_every_weighting_obeys_the_laws(member):
    z = check_weighting(member.weighting, slope=member.slope, shift_invariant=member.shift_invariant, bias=member.bias)
    assert z <= 4.5


@pytest.mark.parametrize(("name", "allocation"), ALLOCATIONS)
def test_every_allocation_obeys_the_laws(name, allocation):
    check_allocation(allocation)


def test_another_process_draws_the_same_bits():
    check_pure(all_digests())


@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_is_caught(name):
    assert caught(name), f"no law catches {name!r}"
