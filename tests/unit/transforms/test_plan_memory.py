"""The memory plan: how near it comes to the bytes that are alive at once."""

import random

import pytest

from stepwell.transforms.memref.plan_memory import _alive_together, _Buffer, _most_alive, _place

# What sticks out in the plans of ResNet-50, ConvNeXt and DenseNet: (first use, last use, KiB). The buffer that lives
# across the other two has to lie at the end of the arena, where no order by size, life or time puts it.
RESIDUAL = [
    (0, 4, 784),
    (3, 9, 3136),
    (8, 14, 3136),
    (4, 9, 784),
    (9, 12, 1764),
    (11, 13, 1764),
    (12, 20, 784),
    (13, 20, 3136),
]


def _buffers(rows: list[tuple[int, int, int]]) -> list[_Buffer]:
    return [_Buffer([], first, last, size * 1024) for first, last, size in rows]


def _overlaps(buffers: list[_Buffer]) -> list[tuple[_Buffer, _Buffer]]:
    together = _alive_together(buffers)
    return [
        (a, b)
        for a in buffers
        for b in together[a]
        if a.offset < b.offset + b.size and b.offset < a.offset + a.size  # pyright: ignore
    ]


@pytest.mark.parametrize("seed", range(30))
def test_buffers_that_live_together_share_no_byte(seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(rng.randint(1, 60)):
        first = rng.randrange(80)
        rows.append((first, first + rng.randrange(12), rng.choice([1, 2, 3, 5, 8, 13, 40])))
    buffers = _buffers(rows)
    total = _place(buffers)
    assert not _overlaps(buffers)
    assert total == max(b.offset + b.size for b in buffers)  # pyright: ignore
    assert total <= 1.25 * _most_alive(buffers)


def test_what_sticks_out_is_placed_earlier():
    buffers = _buffers(RESIDUAL)
    assert _place(buffers) == _most_alive(buffers)
    assert not _overlaps(buffers)
