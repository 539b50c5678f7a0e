"""The split is fixed by names and seed alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.data.split import SPLITS, hash_name, show, split_by_hash
from edgeprune.errors import InputError

names_of_strata = st.dictionaries(
    st.text(min_size=1, max_size=3), st.integers(min_value=3, max_value=60), min_size=1, max_size=4
)
fractions = st.floats(min_value=0.01, max_value=0.49)


def make_strata(sizes: dict[str, int]) -> dict[str, str]:
    return {f"{stratum}/{n}.png": stratum for stratum, size in sizes.items() for n in range(size)}


@given(names_of_strata, fractions, fractions, st.integers(min_value=0, max_value=2**40))
def test_every_stratum_is_in_every_split_in_proportion(
    sizes: dict[str, int], val_fraction: float, test_fraction: float, seed: int
) -> None:
    strata = make_strata(sizes)
    splits = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert splits.keys() == strata.keys()
    for stratum, size in sizes.items():
        counts = {split: sum(splits[name] == split for name in strata if strata[name] == stratum) for split in SPLITS}
        assert min(counts.values()) >= 1
        assert counts["test"] == min(max(math.floor(size * test_fraction + 0.5), 1), size - 2)
        assert abs(counts["val"] - size * val_fraction) <= 1


@given(st.integers(min_value=3, max_value=80), fractions, fractions, fractions)
def test_val_fraction_moves_no_image_into_or_out_of_test(
    size: int, val_fraction: float, other_val_fraction: float, test_fraction: float
) -> None:
    """Figures on test stay comparable when somebody wants more validation images."""
    strata = make_strata({"cat": size})
    one = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=0)
    other = split_by_hash(strata, val_fraction=other_val_fraction, test_fraction=test_fraction, seed=0)
    assert {name for name in one if one[name] == "test"} == {name for name in other if other[name] == "test"}


@given(st.permutations([f"{n}.png" for n in range(12)]))
def test_the_order_in_which_names_arrive_does_not_matter(names: list[str]) -> None:
    """File systems list folders in different orders."""
    split = split_by_hash(dict.fromkeys(names, "cat"), val_fraction=0.25, test_fraction=0.25, seed=3)
    again = split_by_hash(dict.fromkeys(sorted(names), "cat"), val_fraction=0.25, test_fraction=0.25, seed=3)
    assert split == again


def test_another_seed_gives_another_split() -> None:
    strata = make_strata({"cat": 40})
    one, other = (split_by_hash(strata, val_fraction=0.2, test_fraction=0.2, seed=seed) for seed in (0, 1))
    assert one != other


def test_two_images_of_a_class_cannot_be_split_in_three() -> None:
    strata = make_strata({"cat": 5, "dog": 2})
    with pytest.raises(InputError, match=r"Class 'dog' has 2 images; train, val and test need at least one each \(3\)"):
        split_by_hash(strata, val_fraction=0.2, test_fraction=0.2, seed=0)


def test_names_that_are_no_utf8_hash_as_well() -> None:
    """On Linux a name is bytes; Python hands the odd ones over as lone surrogates."""
    assert len(hash_name("caf\udce9.png", 0)) == 64


def test_names_are_shown_in_characters_that_every_terminal_can_print() -> None:
    assert show("a\nb\udce9\x1b[31m") == r"'a\nb\udce9\x1b[31m'"
    assert show("größe") == "'größe'"
