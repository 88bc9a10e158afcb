from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dila.nn.bottleneck import NSVQ
from dila.train.spread import Whole


@pytest.fixture
def spread():
    return Whole(SimpleNamespace(reduce=lambda tensor, reduction: tensor.clone()))


def steps(spread, parts, count, *, resumed_at=None):
    """A codebook after steps on the same numbers in so many parts, and after which of them its entries were others."""
    torch.manual_seed(3)
    book, x, changed = NSVQ(8, 6, replaced=(2,)), torch.randn(12, 6) * 1e-3, []
    for number in range(count):
        if number == resumed_at:
            saved, book = book.state_dict(), NSVQ(8, 6, replaced=(2,))
            book.load_state_dict(saved)
        before = book.entries.detach().clone()
        with spread.step(nn.Sequential(book)):
            for part in x.chunk(parts):
                book(part)
        if not torch.equal(before, book.entries):
            changed.append(number)
    return book, changed


@pytest.mark.parametrize("parts", [1, 3])
def test_dead_codes_are_replaced_before_a_step_and_a_step_is_one_count_whatever_its_parts(spread, parts):
    book, changed = steps(spread, parts, 2)
    assert (int(book.batches), book.usage.sum(), changed) == (2, 2 * 12, [])
    book, changed = steps(spread, parts, 5)
    assert (int(book.batches), book.usage.sum(), changed) == (5, 3 * 12, [2])
    assert (book.usage > 0).sum() > 2


def test_what_was_saved_when_replacing_was_due_goes_on_with_it(spread):
    (whole, _), (resumed, changed) = steps(spread, 1, 4), steps(spread, 1, 4, resumed_at=2)
    assert changed == [2]
    assert torch.equal(whole.entries, resumed.entries)
    assert torch.equal(whole.usage, resumed.usage)


def test_what_no_step_used_is_not_replaced(spread):
    book = NSVQ(8, 6, replaced=(0, 1))
    before = book.entries.detach().clone()
    for _ in range(2):
        with spread.step(nn.Sequential(book)):
            pass
    assert torch.equal(book.entries, before)
