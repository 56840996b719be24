"""Properties of settings, signatures and subsets, for whatever can be generated."""

import copy
import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Lt
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from small_run import config

from resnet_sweep.config.check import check_config, describe_type, is_valid
from resnet_sweep.data.dataset import Split, Subsets, balanced_subset
from resnet_sweep.errors import ConfigError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.record import digest_record
from resnet_sweep.runs.signature import INCIDENTAL, flatten, is_incidental, sign
from resnet_sweep.training import TrainerConfig

PLAIN = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(), some.text(max_size=20)
)
VALUES = some.recursive(
    PLAIN,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner),
    max_leaves=6,
)
CONFIG = config()
SETTINGS = sorted(name for name, _ in flatten(CONFIG))
# Of those, what decides what is trained.
DECISIVE = [name for name in SETTINGS if not is_incidental(name)]
ANNOTATIONS = (
    int, float, bool, str, Count, Count | None, list[Count], Literal["a", "b"],
    Annotated[float, Ge(0), Lt(1)], Annotated[float, Gt(0)] | None,
)  # fmt: skip


def changed(name: str, value: Any) -> dict:
    found = copy.deepcopy(CONFIG)
    *groups, key = name.split(".")
    node = found
    for group in groups:
        node = node.setdefault(group, {})
    node[key] = value
    return found


def signed(found: dict) -> str:
    return sign(found, "float32", "data")


class TestSchema:
    @staticmethod
    def check(name: str, value: Any) -> None:
        try:
            check_config(changed(name, value))
        except ConfigError as error:
            assert name.partition(".")[0] in str(error)

    @given(some.sampled_from(SETTINGS), VALUES)
    @settings(max_examples=100, deadline=None)
    def test_refusal_of_a_value_names_its_group(self, name: str, value: Any) -> None:
        self.check(name, value)

    @pytest.mark.slow
    @given(some.sampled_from(SETTINGS), VALUES)
    @settings(max_examples=500, deadline=None)
    def test_refusals_of_many_values_name_their_groups(self, name: str, value: Any) -> None:
        self.check(name, value)

    @given(some.sampled_from(ANNOTATIONS), VALUES)
    @settings(max_examples=500, deadline=None)
    def test_what_suits_is_of_the_kind_and_finite(self, annotation: Any, value: Any) -> None:
        assert describe_type(annotation)
        if not is_valid(value, annotation):
            return
        if annotation is bool:
            assert value is True or value is False
        elif isinstance(value, float) and annotation is not float:
            assert math.isfinite(value)
        if annotation in (int, Count):
            assert type(value) is int

    @given(some.text(max_size=30))
    @settings(max_examples=200, deadline=None)
    def test_an_unknown_setting_is_refused(self, name: str) -> None:
        assume(name not in TrainerConfig.__dataclass_fields__)
        with pytest.raises(ConfigError) as refusal:
            check_config(CONFIG | {"trainer": CONFIG["trainer"] | {name: 1}})
        assert f"trainer.{name}" in str(refusal.value)


class TestSignature:
    @given(some.sampled_from(DECISIVE), PLAIN)
    @settings(max_examples=500, deadline=None)
    def test_it_differs_whenever_a_setting_that_decides_does(self, name: str, value: Any) -> None:
        before = dict(flatten(CONFIG))[name]
        assume(not (isinstance(value, float) and math.isnan(value)))
        same = value == before and isinstance(value, bool) == isinstance(before, bool)
        assert (signed(changed(name, value)) == signed(CONFIG)) == same

    @given(some.sampled_from(sorted(INCIDENTAL)), VALUES)
    @settings(max_examples=300, deadline=None)
    def test_it_is_the_same_wherever_and_however_it_is_trained(self, name: str, value: Any) -> None:
        # A setting of a group that is a mapping in every config.
        assume("." in name or name != "logger" or isinstance(value, dict))
        assert signed(changed(name, value)) == signed(CONFIG)

    @given(some.permutations(SETTINGS))
    @settings(max_examples=50, deadline=None)
    def test_it_knows_no_order_of_settings(self, order: list[str]) -> None:
        found: dict = {}
        values = dict(flatten(CONFIG))
        # But for that of the operations on batches, which is theirs.
        for name in sorted(order, key=lambda each: each.startswith("augmentation")):
            if name.startswith("augmentation"):
                continue
            *groups, key = name.split(".")
            node = found
            for group in groups:
                node = node.setdefault(group, {})
            node[key] = values[name]
        assert signed(found | {"augmentation": CONFIG["augmentation"]}) == signed(CONFIG)


@given(some.dictionaries(some.text(max_size=8), VALUES, min_size=1), some.data())
@settings(max_examples=100, deadline=None)
def test_digest_of_a_record_changes_with_any_value(record: dict, data: some.DataObject) -> None:
    name = data.draw(some.sampled_from(sorted(record)))
    value = data.draw(VALUES)
    assume(name != "digest" and repr(value) != repr(record[name]))
    assert digest_record(record | {name: value}) != digest_record(record)
    assert digest_record(record | {"digest": "anything"}) == digest_record(
        {key: record[key] for key in record if key != "digest"}
    )


LABELS = some.lists(some.integers(0, 5), min_size=1, max_size=60).map(
    lambda labels: np.array(labels, dtype=np.uint8)
)


class TestSubsets:
    @given(LABELS, some.data(), some.integers(0, 2**63 - 1))
    @settings(max_examples=300, deadline=None)
    def test_one_is_as_balanced_as_can_be_and_part_of_any_larger(
        self, labels: np.ndarray, data: some.DataObject, seed: int
    ) -> None:
        count = data.draw(some.integers(0, len(labels)))
        chosen = balanced_subset(labels, count, seed)
        assert len(chosen) == count
        assert sorted({*chosen.tolist()}) == chosen.tolist()
        larger = balanced_subset(labels, data.draw(some.integers(count, len(labels))), seed)
        assert {*chosen.tolist()} <= {*larger.tolist()}
        there = np.bincount(labels, minlength=6)
        taken = np.bincount(labels[chosen], minlength=6)
        # A class with fewer than another has none left, or one fewer.
        for one in range(6):
            assert taken[one] == there[one] or taken[one] >= taken.max() - 1

    @given(LABELS, some.data(), some.integers(0, 2**63 - 1))
    @settings(max_examples=200, deadline=None)
    def test_parts_of_a_dataset_are_apart_and_never_more_than_there_is(
        self, labels: np.ndarray, data: some.DataObject, seed: int
    ) -> None:
        images = np.zeros((len(labels), 3, 1, 1), dtype=np.uint8)
        sizes = some.none() | some.integers(1, len(labels) + 2)
        holdout, limit = data.draw(sizes), data.draw(sizes)
        whole = Split.whole(images, labels)
        left = len(labels) - (holdout or 0)
        fits = left > 0 and (limit or 0) <= left
        subsets = Subsets(limit_train=limit, holdout=holdout)
        description = {"classes": [], "mean": [], "std": [], "fingerprint": ""}
        if not fits:
            with pytest.raises(ConfigError) as refusal:
                subsets.select(whole, whole, seed, **description)
            large = ("limit_train", limit) if left > 0 else ("holdout", holdout)
            assert "data.{}={}".format(*large) in str(refusal.value)
            return
        dataset = subsets.select(whole, whole, seed, **description)
        assert len(dataset.train) == (limit or left)
        if holdout:
            assert len(dataset.validation) == holdout
            assert not {*dataset.train.indices} & {*dataset.validation.indices}
        again = subsets.select(whole, whole, seed, **description)
        assert np.array_equal(again.train.indices, dataset.train.indices)
