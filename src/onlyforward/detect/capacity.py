"""How many detectors a circuit can be told apart from: a bound on the covering number of its outputs."""

from __future__ import annotations

import math

from onlyforward.core.checks import check_range


def capacity_bound(gates: int, eps: float, norm: float = 1.0, k: int = 1) -> float:
    """Logarithm of the covering number at radius eps, up to a constant: 4^k T log(7 T |O| / eps).

    Args:
        gates: T, trained gates.
        eps: radius of the cover, in units of the observable.
        norm: |O|, operator norm of the observable.
        k: qubits that a gate acts on.

    Raises:
        UsageError: an argument is out of range.

    Source: Du et al., Physical Review Letters 128, 080506 (2022).
    """
    check_range(gates, name="gates", low=1)
    check_range(eps, name="eps", low=0.0, open_low=True)
    check_range(norm, name="norm", low=0.0, open_low=True)
    check_range(k, name="k", low=1)
    return 4.0**k * gates * math.log(7 * gates * norm / eps)
