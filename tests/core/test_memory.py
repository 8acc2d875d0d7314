import torch

from onlyforward.core.memory import PeakMemory


def test_the_peak_is_the_sum_of_what_lives_together_and_not_of_what_was_made():
    outside = torch.ones(1000)
    with PeakMemory() as memory:
        for _ in range(5):
            made = outside * 2
            del made
        assert memory.peak == 4000
        assert memory.live == 0
        kept = [outside + k for k in range(3)]
        views = [x.view(10, 100).add_(1) for x in kept]
        assert memory.live == memory.peak == 12000
        del kept, views
        assert memory.live == 0
