from dataclasses import dataclass

import pytest

from onlyforward.core.errors import UsageError
from onlyforward.run.bounds import Count, Natural, NotNegative, Positive, Share, check_options


@dataclass(frozen=True)
class Options:
    workers: Count = 1
    steps: Natural | None = None
    rate: NotNegative = 0.0
    sigma: Positive | None = None
    shares: tuple[Share, ...] = (0.0, 1.0)
    free: float = -3.0
    flag: bool = False


def test_numbers_inside_of_their_bounds_pass():
    check_options(Options())
    check_options(Options(workers=7, steps=0, rate=2.5, sigma=1e-9, shares=(), flag=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(workers=0), "--workers is 0. It must be at least 1"),
        (Options(steps=-1), "--steps is -1. It must be at least 0"),
        (Options(rate=-0.5), "--rate is -0.5. It must be at least 0"),
        (Options(sigma=0.0), "--sigma is 0.0. It must be above 0"),
        (Options(shares=(0.5, 1.5)), "--shares is 1.5. It must be between 0 and 1"),
        (Options(free=float("nan")), "--free is nan. Give a number"),
        (Options(rate=float("inf")), "--rate is inf. Give a number"),
    ],
)
def test_numbers_outside_are_refused_by_name(options, words):
    with pytest.raises(UsageError) as refused:
        check_options(options)
    assert words in str(refused.value)
