"""Augmentations of whole batches: flips, shifts, cutout, mixup, and the views of test-time augmentation."""

from __future__ import annotations

import torch
from torch.nn import functional

from models.image.networks import augment


def test_alternating_flips_show_each_image_in_both_orientations_in_two_epochs() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)

    first, second = (augment.flip_alternately(pixels, epoch) for epoch in (0, 1))

    unflipped = (first == pixels).flatten(1).all(1)
    assert 10 < int(unflipped.sum()) < 54
    assert torch.equal(second, torch.where(unflipped[:, None, None, None], pixels.flip(3), pixels))


def test_a_shift_translates_by_no_more_than_the_distance() -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 1, 8, 8)

    moved = augment.shift(images, 2)

    padded = functional.pad(images, (2,) * 4, mode="reflect")
    windows = [padded[:, :, down : down + 8, right : right + 8] for down in range(5) for right in range(5)]
    found = torch.stack([(moved == window).flatten(1).all(1) for window in windows])
    assert bool(found.any(0).all())
    assert int(found.any(1).sum()) > 10


def test_mixup_blends_pairs_and_the_first_image_has_the_higher_weight() -> None:
    torch.manual_seed(0)
    images = torch.rand(50, 1, 6, 6)

    mixed, others, share = augment.mix(images, 0.4)

    assert 0.5 <= share <= 1
    assert sorted(others.tolist()) == list(range(50))
    assert torch.allclose(mixed, share * images + (1 - share) * images[others])


def test_the_tta_views_are_shifted_along_the_diagonal_and_flipped() -> None:
    images = torch.arange(2 * 36.0).reshape(2, 1, 6, 6)

    views = augment.tta_views(images, flip=True, distance=1)

    assert torch.equal(views[0], images)
    assert torch.equal(views[1][:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(views[2][:, :, :-1, :-1], images[:, :, 1:, 1:])
    assert all(torch.equal(mirrored, view.flip(3)) for view, mirrored in zip(views[:3], views[3:], strict=True))
    assert len(augment.tta_views(images, flip=False, distance=0)) == 1


def test_cutout_blanks_one_square_only() -> None:
    torch.manual_seed(0)

    blanked = augment.cut_out(torch.ones(200, 2, 12, 12), 4) == 0

    assert torch.equal(blanked[:, 0], blanked[:, 1])
    rows, columns = blanked[:, 0].any(2).sum(1), blanked[:, 0].any(1).sum(1)
    assert torch.equal(blanked[:, 0].sum((1, 2)), rows * columns)
    assert int(rows.max()) == int(columns.max()) == 4
    assert int(rows.min()) >= 2
