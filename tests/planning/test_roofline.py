"""How long collectives take on the links of a slice, and what a step's time is made of."""

import dataclasses

import numpy as np
import pytest

from research.errors import InputError
from research.planning import chips, compiling, roofline
from research.planning.chips import HOP, LINK_SHARE
from research.planning.compiling import Compiled, Traffic
from research.planning.counting import Piece

V5E, V5P = chips.topology("v5e:16x16", 1), chips.topology("v5p:4x4x4", 1)
EMPTY = Compiled({"data": 1}, 0, 0, 0, 0, 0, 0, 0, "")


def gathered(topology, **changes):
    whole = Traffic("all-gather", ("fsdp",), 1e9, 1, False, inside=16, slices=1, links=2.0, hops=0)
    return roofline.seconds(dataclasses.replace(whole, **changes), topology)


@pytest.mark.parametrize("text", ["v5p", "v5p:4x4", "v6e:2x2x2", "h100:16", "b200:8", "v5e:0x4", "v5e:4xx4"])
def test_a_topology_that_is_none_says_what_is(text):
    with pytest.raises(InputError, match=r"--topology .*(chips are|sizes|like|N is N nodes)"):
        chips.topology(text, 1)


def test_topologies_have_their_chips():
    assert chips.topology("v5p:2x4x4", 1).chips == 32
    assert (
        str(chips.topology("v6e:16x16", 4)) == "4 slices of v6e:16x16" and chips.topology("v6e:16x16", 4).chips == 1024
    )
    assert not chips.topology("h100:8", 2).tpu


def test_a_ring_has_two_links_a_line_one_and_a_plane_those_of_both_dimensions():
    def places(rows, columns):
        return np.array([(0, row, column) for row in rows for column in columns])

    assert compiling.way(places(range(16), [3]), V5E)[2] == 2
    assert compiling.way(places(range(16), range(16)), V5E)[2] == 4
    assert compiling.way(places(range(4), [0]), V5E)[2] == 1
    # groups that take every second chip share the links between them
    assert compiling.way(places(range(0, 16, 2), [0]), V5E)[2] == 1
    assert compiling.way(np.array([(s, r, 0) for s in (0, 1) for r in range(4)]), V5E)[:2] == (4, 2)


def test_gathering_takes_as_long_as_what_arrives_needs_on_the_links():
    links, network = gathered(V5P)
    assert links == pytest.approx(1e9 * 15 / 16 / (2 * V5P.chip.link * LINK_SHARE)) and network == 0
    assert gathered(V5P, kind="all-reduce")[0] == pytest.approx(2 * links)
    assert gathered(V5P, times=10)[0] == pytest.approx(10 * links)
    assert gathered(V5P, bytes=0, hops=8)[0] == pytest.approx(8 * HOP)
    # between two slices, each chip fetches half of what its neighbours then share
    assert gathered(V5P, slices=2)[1] == pytest.approx(1e9 / 16 / 2 / V5P.chip.network)


def test_overlapped_collectives_hide_behind_work_and_others_do_not():
    traffic = Traffic("all-gather", ("fsdp",), 1e9, 1, False, inside=16, slices=1, links=2.0, hops=0)
    second = Piece(flops=0, bytes=0, cycles=V5P.chip.clock, times=1)
    exposed = roofline.times(dataclasses.replace(EMPTY, pieces=(second,), traffic=(traffic,)), V5P)
    hidden = dataclasses.replace(traffic, overlapped=True)
    overlapped = roofline.times(dataclasses.replace(EMPTY, pieces=(second,), traffic=(hidden,)), V5P)
    assert overlapped.step == pytest.approx(1.0)
    assert exposed.step == pytest.approx(1.0 + exposed.links)
    long = dataclasses.replace(hidden, times=1e6)
    bound = roofline.times(dataclasses.replace(EMPTY, pieces=(second,), traffic=(long,)), V5P)
    assert bound.step == pytest.approx(bound.links) and bound.bound == "interconnect"


def test_a_collective_hides_only_as_long_as_the_work_that_the_schedule_has_beside_it():
    traffic = Traffic("all-gather", ("fsdp",), 1e9, 4, True, inside=16, slices=1, links=2.0, hops=0)
    tenth = Piece(flops=0, bytes=0, cycles=roofline.seconds(traffic, V5P)[0] / 40 * V5P.chip.clock, times=1)
    second = Piece(flops=0, bytes=0, cycles=V5P.chip.clock, times=1)
    narrow = dataclasses.replace(traffic, beside=tenth)
    found = roofline.times(dataclasses.replace(EMPTY, pieces=(second,), traffic=(narrow,)), V5P)
    assert found.step == pytest.approx(1.0 + 0.9 * found.links)


def test_attention_kernels_take_a_stated_share_of_the_peak_and_narrow_heads_less():
    def seconds(head):
        return roofline.work(Piece(V5P.chip.flops, 1, 0, 1, head), V5P.chip)

    assert seconds(128) == pytest.approx(1 / V5P.chip.kernel) and seconds(64) == pytest.approx(2 / V5P.chip.kernel)
    assert seconds(256) == seconds(128)


def test_a_kernel_is_bound_by_its_products_or_by_its_bytes():
    h100 = chips.topology("h100:1", 1)
    products = Piece(flops=h100.chip.flops, bytes=1, cycles=0, times=3)
    moved = Piece(flops=1, bytes=h100.chip.bandwidth, cycles=0, times=5)
    computing = roofline.times(dataclasses.replace(EMPTY, pieces=(products,)), h100)
    assert computing.local == pytest.approx(3 / chips.PRODUCT_SHARE) and computing.bound == "compute"
    moving = roofline.times(dataclasses.replace(EMPTY, pieces=(moved,)), h100)
    assert moving.local == pytest.approx(5) and moving.bound == "memory"
