import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.sums import exact_sum

floats = st.floats(-1e12, 1e12, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits_close_to_the_true_sum(rows, random):
    chunks = [{"x": torch.tensor(row, dtype=torch.float64)} for row in rows]
    total = exact_sum(chunks)["x"]
    random.shuffle(chunks)
    assert torch.equal(total, exact_sum(chunks)["x"])
    largest = max(abs(v) for row in rows for v in row)
    for column in range(3):
        truth = math.fsum(row[column] for row in rows)
        # The sum and the truth are each rounded to a double once more.
        bound = 2.0**-52 * (len(rows) * largest + abs(truth)) + 1e-300
        assert abs(float(total[column]) - truth) <= bound


def test_the_dtype_of_the_chunks_is_kept_and_zeros_stay_zero():
    assert exact_sum([{"x": torch.ones(3)}, {"x": torch.ones(3)}])["x"].dtype == torch.float32
    assert exact_sum([{"x": torch.zeros(2)}])["x"].tolist() == [0.0, 0.0]
    assert exact_sum([{"x": torch.zeros(0)}])["x"].shape == (0,)


def test_tiny_numbers_keep_their_bits():
    tiny = torch.tensor([1e-290], dtype=torch.float64)
    assert float(exact_sum([{"x": tiny}, {"x": tiny}])["x"]) == pytest.approx(2e-290, rel=1e-12)


def test_non_finite_terms_and_wrong_numbers_of_chunks_are_refused():
    with pytest.raises(Diverged, match="non-finite"):
        exact_sum([{"x": torch.tensor([math.inf])}])
    with pytest.raises(UsageError, match="chunks"):
        exact_sum([])
    with pytest.raises(UsageError, match="1024"):
        exact_sum([{"x": torch.ones(1)}] * 1025)


def worker(rank, size, folder, result):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{size}", rank=rank, world_size=size
    )
    chunks = make_chunks()
    mine = chunks[rank::size] or [{"x": torch.zeros(4, dtype=torch.float64)}]
    total = exact_sum(mine, group=torch.distributed.group.WORLD)["x"]
    result[rank] = total.tolist()
    torch.distributed.destroy_process_group()


def make_chunks():
    generator = torch.Generator().manual_seed(3)
    return [{"x": torch.randn(4, dtype=torch.float64, generator=generator) * 10.0**k} for k in range(2)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_two_and_three_workers_get_the_bits_of_one_process(size, tmp_path):
    manager = torch.multiprocessing.Manager()
    result = manager.dict()
    torch.multiprocessing.spawn(worker, args=(size, str(tmp_path), result), nprocs=size)
    truth = exact_sum(make_chunks())["x"].tolist()
    assert all(result[rank] == truth for rank in range(size))
