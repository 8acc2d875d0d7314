"""A serial supply chain with normal demand, continuous review: echelon levels by the recursion of Clark and Scarf.

C_j(y) = E[h_j (y - D_j) + C~_{j-1}(y - D_j)], D_j the demand during stage j's lead time, C~_0(x) = (p + sum h) x-,
S_j = argmin C_j, C~_j(x) = C_j(min(S_j, x)); the optimal cost is C_N(S_N) (Clark and Scarf 1960; Chen and Zheng 1994).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clark_scarf(
    *, holding: Sequence[float], leads: Sequence[float], penalty: float, mean: float, sd: float, step: float = 0.01
) -> tuple[float, list[float]]:
    """Optimal cost per unit of time and the echelon levels, downstream first.

    Args:
        holding: echelon holding cost per unit and time, downstream first.
        leads: lead times, downstream first.
        penalty: cost of a backlogged unit per unit of time.
        mean: mean demand per unit of time.
        sd: its standard deviation.
        step: grid width of the recursion, in units.
    """
    from scipy.stats import norm

    reach = sum(mean * lead + 8 * sd * np.sqrt(lead) for lead in leads)
    grid = np.arange(-reach, 2 * reach, step)
    ahead = (penalty + sum(holding)) * np.maximum(-grid, 0)
    cost, levels = 0.0, []
    for echelon, lead in zip(holding, leads, strict=True):
        spread = 8 * sd * np.sqrt(lead)
        offsets = np.arange(round((mean * lead - spread) / step), round((mean * lead + spread) / step) + 1)
        weights = norm.pdf(offsets * step, mean * lead, sd * np.sqrt(lead))
        weights /= weights.sum()
        below = np.arange(len(grid))[:, None] - offsets[None, :]
        slope = (ahead[1] - ahead[0]) / step
        inside = np.clip(below, 0, len(grid) - 1)
        # Left of the grid the recursion is linear; extend it so that no mass is lost there.
        values = ahead[inside] + echelon * (grid[0] + below * step) + slope * np.minimum(below, 0) * step
        curve = values @ weights
        usable = slice(0, len(grid) - int(offsets[-1]) - 1)
        lowest = int(curve[usable].argmin())
        cost, level = float(curve[lowest]), float(grid[lowest])
        levels.append(level)
        ahead = np.where(np.arange(len(grid)) < lowest, curve, curve[lowest])
    return cost, levels
