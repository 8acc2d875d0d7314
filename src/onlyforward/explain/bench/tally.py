"""What the arms of a case came to, image by image: means, 95 % intervals over images, one table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onlyforward.explain.intervals import half_width

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.result import Result


def runs(options: BenchOptions) -> range:
    """The seeds of a case: one with --quick."""
    return range(1 if options.quick else options.seeds)


@dataclass
class Tally:
    """Numbers of arms.

    Attributes:
        case: the prefix of the metrics.
        found: (arm, quantity) -> image -> values of its repeats.
    """

    case: str
    found: dict[tuple[str, str], dict[Any, list[float]]] = field(default_factory=dict)

    def add(self, arm: str, image: Any, **quantities: float) -> None:
        """Take in one repeat of one arm on one image."""
        for quantity, value in quantities.items():
            self.found.setdefault((arm, quantity), {}).setdefault(image, []).append(float(value))

    def images(self, arm: str, quantity: str) -> list[float]:
        """Mean over repeats for each image, in order of name."""
        own = self.found[arm, quantity]
        return [statistics.fmean(own[image]) for image in sorted(own)]

    def mean(self, arm: str, quantity: str) -> float:
        """Mean over images."""
        return statistics.fmean(self.images(arm, quantity))

    def difference(self, left: str, right: str, quantity: str) -> list[float]:
        """Paired differences left - right, image by image."""
        return [a - b for a, b in zip(self.images(left, quantity), self.images(right, quantity), strict=True)]

    @property
    def arms(self) -> list[str]:
        """Arms in the order in which they came."""
        return list(dict.fromkeys(arm for arm, _ in self.found))

    def report(self, result: Result, title: str, columns: dict[str, str], note: str = "") -> None:
        """Metrics `<case>_<arm>_<quantity>` and one table with half widths of 95 % intervals over images.

        Args:
            result: where they go.
            title: of the table.
            columns: quantity -> heading.
            note: under the table.
        """
        rows = []
        for arm in self.arms:
            row: list[Any] = [arm.replace("_", " ")]
            for quantity in columns:
                if (arm, quantity) not in self.found:
                    row += ["", ""]
                    continue
                result.metric(f"{self.case}_{arm}_{quantity}", self.mean(arm, quantity))
                row += [self.mean(arm, quantity), half_width(self.images(arm, quantity))]
            rows.append(row)
        headings = [part for heading in columns.values() for part in (heading, "+-")]
        result.table(title, ["arm", *headings], rows, note)
