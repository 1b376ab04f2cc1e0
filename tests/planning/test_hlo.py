"""What is read in the text of a compiled program: loops, groups of devices, and how much work there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from research.planning import counting, hlo

SIZE = 64


def work(function, *arguments, devices=1, **options):
    text = jax.jit(function, **options).lower(*arguments).compile().as_text()
    return counting.count(hlo.parse(text), devices)


def test_groups_of_devices_are_read_in_all_notations():
    """Of a mesh of 2 x 4: who communicates along the second axis, and along the first."""
    rows, columns = np.arange(8).reshape(2, 4), np.arange(8).reshape(2, 4).T
    for text, expected in {
        "replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}": rows,
        "replica_groups=[2,4]<=[8], use_global_device_ids=true": rows,
        "replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}": columns,
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}": rows,
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, dimensions={1}": columns,
        "replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}, dimensions={1}": rows,
        "replica_groups=mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}, dimensions={1}": columns,
        "replica_groups={}, to_apply=%add": np.arange(8)[None],
    }.items():
        np.testing.assert_array_equal(hlo.groups(text, 8), expected)
    np.testing.assert_array_equal(hlo.pairs("source_target_pairs={{0,1},{1,0}}, channel_id=1"), [[0, 1], [1, 0]])


def test_shapes_have_their_bytes_and_their_memory():
    text = """HloModule m

ENTRY %main (p: bf16[4,8]) -> (bf16[4,8], s32[]) {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %c = s32[]{:T(128)} constant(3)
  ROOT %t = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s32[]{:T(128)}) tuple(%p, %c)
}
"""
    program = hlo.parse(text)
    main = program.computations[program.entry]
    assert [(each.opcode, each.bytes) for each in main.values()] == [("parameter", 64), ("constant", 4), ("tuple", 68)]
    assert main["p"].shapes[0].space == 1 and main["c"].shapes[0].space == 0
    assert main["t"].operands == ("p", "c") and main["t"].root


def test_a_loop_counts_as_often_as_it_runs():
    x, kernels = jnp.ones((SIZE, SIZE)), jnp.ones((7, SIZE, SIZE))
    looped = work(lambda x, kernels: lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0], x, kernels)
    assert looped.flops == 7 * 2 * SIZE**3
    # a step reads its kernel and the running product and writes that; not all kernels
    assert 7 * 3 * 4 * SIZE**2 <= looped.bytes < 7 * 12 * 4 * SIZE**2


def test_a_loop_that_counts_in_twos_runs_half_as_often():
    """As the loops that the TPU compiler makes of a product with a kernel that arrives in parts."""
    text = """HloModule m

%body (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %p = (s32[], f32[4,4]{1,0}) parameter(0)
  %two = s32[] constant(2)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4,4]{1,0} get-tuple-element(%p), index=1
  %copied = s32[] copy(%i)
  %next = s32[] add(%copied, %two)
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[4,4]{1,0}) tuple(%next, %y)
}

%condition (q: (s32[], f32[4,4])) -> pred[] {
  %q = (s32[], f32[4,4]{1,0}) parameter(0)
  %eight = s32[] constant(8)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%j, %eight), direction=LT
}

ENTRY %main (a: f32[4,4]) -> (s32[], f32[4,4]) {
  %a = f32[4,4]{1,0} parameter(0)
  %zero = s32[] constant(BEGIN)
  %first = s32[] copy(%zero)
  %carried = (s32[], f32[4,4]{1,0}) tuple(%first, %a)
  ROOT %w = (s32[], f32[4,4]{1,0}) while(%carried), condition=%condition, body=%body
}
"""
    for begin, turns in ((0, 4), (2, 3)):  # a turn that the compiler has taken out comes before the loop
        program = hlo.parse(text.replace("BEGIN", str(begin)))
        assert counting.count(program, 1).flops == turns * 2 * 4**3


def test_what_slices_of_a_tpu_do_together_is_read_in_what_they_send():
    """Its compiler gives the program of one slice, in which that is neither an all-reduce nor inside a group."""
    attributes = '_xla_host_transfer_rendezvous="sum_0",_xla_megascale_transfer_type="ALL_REDUCE"'
    text = f"""HloModule m

ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {{
  %p = bf16[4,8]{{1,0}} parameter(0)
  %t = token[] after-all()
  %send.1 = (bf16[4,8]{{1,0}}, u32[], token[]) send(%p, %t), frontend_attributes={{{attributes}}}
  %recv.1 = (bf16[4,8]{{1,0}}, u32[], token[]) recv(%t), frontend_attributes={{{attributes}}}
  BETWEEN
  %send-done.1 = token[] send-done(%send.1)
  %recv-done.1 = (bf16[4,8]{{1,0}}, token[]) recv-done(%recv.1)
  ROOT %r = bf16[4,8]{{1,0}} get-tuple-element(%recv-done.1), index=0
}}
"""
    for between, overlapped in (("", False), ("%n = bf16[4,8]{1,0} negate(%p)", True)):
        (sent,) = counting.count(hlo.parse(text.replace("BETWEEN", between)), 4, 2).collectives
        assert (sent.kind, sent.bytes, sent.overlapped) == ("all-reduce", 64, overlapped)
        np.testing.assert_array_equal(sent.members, [[0, 4], [1, 5], [2, 6], [3, 7]])


@pytest.mark.parametrize(
    ("convolution", "shapes", "flops"),
    [
        # a batched product, as TPUs write it: 4 batches of (8 x 16) (16 x 32)
        (
            "window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf",
            ("[4,8,16]", "[4,32,16]", "[4,8,32]"),
            2 * 4 * 8 * 16 * 32,
        ),
        # a plain product whose contracted axis is in two parts
        ("window={size=4}, dim_labels=b0f_0io->bf0", ("[8,4,16]", "[4,16,32]", "[8,32,1]"), 2 * 8 * 4 * 16 * 32),
        # an outer product over a padded axis
        (
            "window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f",
            ("[1,2,16,1]", "[16,8,32,1]", "[1,2,8,32]"),
            2 * 2 * 16 * 8 * 32,
        ),
    ],
)
def test_products_that_are_convolutions_count_what_they_multiply(convolution, shapes, flops):
    left, right, out = shapes
    text = f"""HloModule m

ENTRY %main (a: f32{left}, b: f32{right}) -> f32{out} {{
  %a = f32{left}{{0}} parameter(0)
  %b = f32{right}{{0}} parameter(1)
  ROOT %c = f32{out}{{0}} convolution(%a, %b), {convolution}
}}
"""
    assert counting.count(hlo.parse(text), 1).flops == flops


def test_a_sum_over_devices_is_found_with_its_size_and_its_group():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=split)
    done = work(lambda x: x.sum(axis=1), x, devices=8, out_shardings=jax.NamedSharding(mesh, jax.P()))
    (reduced,) = [each for each in done.collectives if each.kind == "all-reduce"]
    assert reduced.bytes == 16 * 4 and reduced.times == 1
    np.testing.assert_array_equal(reduced.members, np.arange(8).reshape(2, 4))


KERNEL = """HloModule m

%start (p: bf16[4]) -> bf16[64] {
  %p = bf16[4]{0} parameter(0)
  %gathered = bf16[64]{0} all-gather(%p), channel_id=7, replica_groups=[4,16]<=[64], dimensions={0}
  ROOT %c = bf16[64]{0} custom-call(%gathered), custom_call_target="AsyncCollectiveStart"
}

%step (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  %d = bf16[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %q = bf16[4]{0} parameter(1)
  %again = bf16[64]{0} all-gather(%q), channel_id=7, replica_groups=[4,16]<=[64], dimensions={0}
  ROOT %t = bf16[8,8]{1,0} copy(%d)
}

%done (p: bf16[64]) -> bf16[64] {
  %p = bf16[64]{0} parameter(0)
  %more = bf16[64]{0} all-gather(%p), channel_id=7, replica_groups=[4,16]<=[64], dimensions={0}
  ROOT %c = bf16[64]{0} custom-call(%more), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: bf16[4], y: bf16[8,8]) -> bf16[64] {
  %x = bf16[4]{0} parameter(0)
  %y = bf16[8,8]{1,0} parameter(1)
  %begin = bf16[64]{0} fusion(%x), kind=kCustom, calls=%start
  %between = bf16[8,8]{1,0} fusion(%y, %x), kind=kOutput, calls=%step, backend_config={"estimated_cycles":"500"}
  %splash.1 = (bf16[1,2,8,64]{3,2,1,0}, f32[1,2,1,8]{3,2,1,0}) custom-call(%y), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata": "{\\"block_q\\": 8"
}}, backend_config={"custom_call_config":{"body":"TUz{v","cost_estimate":{"flops":"1000","transcendentals":"5","bytes_accessed":"77","remote_bytes_transferred":"0"}}}
  %later = bf16[8,8]{1,0} copy(%y), backend_config={"estimated_cycles":"20"}
  ROOT %end = bf16[64]{0} fusion(%begin), kind=kCustom, calls=%done
}
"""  # noqa: E501


def test_kernels_state_their_own_costs_and_their_text_may_have_several_lines():
    found = counting.count(hlo.parse(KERNEL), 64)
    (kernel,) = [piece for piece in found.pieces if piece.head]
    assert (kernel.flops, kernel.bytes, kernel.head, kernel.times) == (1000, 77, 64, 1)
    assert found.flops == 1000 + 2 * 8**3


def test_a_collective_inside_fusions_is_one_and_runs_beside_what_is_between_them():
    (gather,) = counting.count(hlo.parse(KERNEL), 64).collectives
    assert (gather.kind, gather.bytes, gather.overlapped) == ("all-gather", 4 * 2 * 16, True)
    assert (gather.beside.cycles, gather.beside.flops) == (520, 1000)
