"""The models behind docs/gpu.md: how instructions become clocks and ranges, and how tensor cores' sums are emulated."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from fractions import Fraction

import accumulation
import h100
import pytest
import torch
from accumulation import Error, in_parts, on_tensor_cores, plain
from actor_loops import ActorLoops, Shape
from cuda_tables import WARPS, Load, Row
from gradient_tables import step_of
from h100 import BEST, WORST, Span
from machine_code import Code, Loop, Mix
from torch import Tensor


@pytest.mark.parametrize(
    ("instruction", "pipeline"),
    [
        ("IADD3 R5, -R5, R36, RZ", "integers"),
        ("@!P1 LEA R20, P6, R24, R62, 0x2", "integers"),
        ("FSETP.GT.AND P1, PT, R20, R59, PT", "integers"),
        ("VOTE.ANY R21, PT, P1", "integers"),
        ("@!P1 IMAD.WIDE.U32 R24, R79, R20, R60", "multiplies"),
        ("MUFU.RCP R6, R3", "special"),
        ("@P1 POPC R22, R22", "special"),
        ("@!P1 LDG.E.128 R44, desc[UR6][R20.64]", "memory"),
        ("SHFL.BFLY PT, R3, R2, 0x10, 0x1f", "memory"),
        ("FADD R93, R48, R44", ""),
        ("UIADD3 UR4, UR4, -0x1, URZ", ""),
        ("HGMMA.64x32x16.F32.BF16 R24, R4, gdesc[UR8]", ""),
        ("@!P1 BRA `(.L_x_35)", ""),
    ],
)
def test_an_instruction_belongs_to_its_pipeline(instruction, pipeline) -> None:
    names = {field.name for field in fields(Mix)} - {"issued"}
    assert Mix.of(instruction) == replace(Mix(issued=1), **{name: name == pipeline for name in names})


@pytest.mark.parametrize(
    ("mix", "clocks"),
    [
        (Mix(issued=8), 2),
        (Mix(issued=8, integers=8), 4),
        (Mix(issued=8, multiplies=6), 3),
        (Mix(issued=8, special=3), 6),
        (Mix(issued=8, memory=5), 5),
    ],
)
def test_instructions_take_what_the_busiest_pipeline_takes(mix, clocks) -> None:
    assert BEST._replace(issue=0.5).clocks(mix) == 2 * clocks
    assert BEST._replace(issue=0.5).clocks(mix * 3 + mix) == 8 * clocks


@pytest.mark.parametrize(
    ("best", "worst", "said"),
    [
        (5.83, 7.9, "5.5–8.0"),
        (6.4, 9.7, "6.0–10"),
        (27.2, 47.9, "26–48"),
        (101.0, 188.0, "100–190"),
        (1009.0, 1990.0, "1,000–2,000"),
    ],
)
def test_ranges_are_rounded_outwards(best, worst, said) -> None:
    assert str(Span(best * 1e-6, worst * 1e-6)) == said


@pytest.mark.parametrize("gpu", ["NVIDIA H100", None])
def test_what_was_measured_on_a_gpu_stands_beside_its_prediction(gpu, tmp_path, monkeypatch) -> None:
    """Medians, in µs; where the benchmark ran without a GPU, nothing does."""
    at = {"neuron": "if", "batch": 256, "seconds": [1e-6, 2.04e-6, 3e-6]}
    found = {
        "gpu": gpu,
        "decisions": [{"name": "cuda graph", **at}],
        "gradients": [{"backend": "triton", "bytes": 1, **at}],
        "visual": [{"path": "layers", **at}],
        "neurons": [{"backend": "triton", "form": "a form", **at}],
    }
    monkeypatch.setattr(h100, "RESULTS", tmp_path / "gpu.json")
    h100.RESULTS.write_text(json.dumps(found))
    measured = h100.Measured()
    cells = [measured.actor("cuda", "IF", 256), measured.visual("layers", "IF", 256)]
    cells += [measured.gradients("triton", "IF", 256), measured.neurons("triton", "IF", "a form")]
    assert cells == ["2.0" if gpu else ""] * 4
    assert measured.actor("cuda", "MT", 256) == measured.gradients("triton", "IF", 65536) == ""
    assert measured.gradients("cuda", "IF", 256) == ""


CODE = Code.parse(
    """
        /*0000*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_1:
        /*0010*/                   LDS R2, [R1] ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
        /*0030*/                   FADD R3, R3, R2 ;
.L_x_2:
        /*0040*/                   IADD3 R1, R1, 0x4, RZ ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
.L_x_3:
        /*0070*/                   WARPSYNC.COLLECTIVE R4 ;
        /*0080*/                   BRA `(.L_x_2) ;
"""
)


def test_the_longest_way_around_a_loop_is_counted() -> None:
    code = CODE.until_exit()
    (loop,) = code.loops()
    assert loop == Loop(1, 6)
    assert code.mix(code.way(loop)) == Mix(issued=5, integers=1, memory=1)
    assert code.own(Loop(0, 7)) == {0, 6}


def test_what_diverging_warps_do_behind_the_end_is_no_loop() -> None:
    assert len(CODE.loops()) == 2
    assert len(CODE.until_exit().loops()) == 1


GRADIENT = """
.L_x_1:
        /*0000*/                   FADD R3, R3, R2 ;
        /*0010*/               @P3 BRA `(.L_x_3) ;
.L_x_2:
        /*0020*/                   FMUL R4, R3, R2 ;
        /*0030*/                   FADD R5, R5, R4 ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0050*/                   STS [R1], R5 ;
        /*0060*/               @P1 BRA `(.L_x_1) ;
.L_x_4:
        /*0070*/                   LDS R2, [R1] ;
        /*0080*/                   STG.E desc[UR4][R6.64], R2 ;
        /*0090*/               @P1 BRA `(.L_x_4) ;
"""


@pytest.mark.parametrize("levels", [1, 4])
def test_a_step_of_gradients_goes_there_and_back_and_over_all_levels(levels) -> None:
    """The loop over rows, which all of it is in, and the path of tiny thresholds, which stands before, are left out."""
    tiny = GRADIENT.replace(".L_x_", ".L_x_1").replace("FADD R3, R3, R2 ;", "FADD R3, R3, R2 ;\n/*0001*/ MOV R1, R1 ;")
    both = f".L_x_9:\n{tiny}{GRADIENT}        /*00a0*/               @P2 BRA `(.L_x_9) ;\n"
    assert step_of(Code.parse(both), levels) == Mix(issued=4 + 3 * levels + 3, memory=1 + 2)


EACH = ActorLoops(
    **{
        field.name: Mix(issued=1)
        for field in fields(ActorLoops)
        if field.name not in ("inputs_at_once", "rows_at_once")
    },
    inputs_at_once=16,
    rows_at_once=8,
)


def test_loops_go_around_as_often_as_in_the_source() -> None:
    """An actor of 17-256-256-6 and 8 steps in a block of 16 warps: 8 warps of neurons, and 16 tasks, each of a step and
    of half of the receivers, which list 8 words of a fire mask."""
    parts = EACH.parts(Shape(17, 256, 6, 8), warps=16, rounds=50.5, first_rounds=2)
    assert {part: mix.issued for part, mix in parts.items()} == {
        "start": 16,
        "first layer: current": 16,
        "first layer: T steps": 64,
        "first layer: carry, barrier": 8,
        "second layer: lists from fire masks": 16 + 128,
        "second layer: adding rows": 101,
        "second layer: barrier, T steps": 64,
        "second layer: carry, barrier": 16,
        "output layer, tanh": 6,
    }


def test_a_loop_that_is_not_in_the_source_is_refused() -> None:
    with pytest.raises(RuntimeError, match="should contain 4 loops"):
        ActorLoops.of(CODE)


def row(instructions: float) -> Row:
    loops = replace(EACH, rows=Mix(issued=instructions))
    return Row("IF", Load(spikes=400, most=57, senders=94, rounds=54), loops)


def test_a_row_waits_for_instructions_where_there_are_many() -> None:
    few, many = row(1).parts(BEST), row(1000).parts(BEST)
    adding = "second layer: adding rows"
    assert {part for part in few if few[part] != many[part]} == {adding}
    assert few[adding] == pytest.approx(row(1).latencies(BEST)[adding])
    assert many[adding] == pytest.approx(1000 * 400 / 8 * 2 / 4 / BEST.issue)
    rounds = row(1000).parts(WORST, WARPS)[adding]
    assert rounds == pytest.approx(1000 * 54 * 2 / 4 / WORST.issue)


def test_later_rows_of_a_multiprocessor_cost_their_instructions() -> None:
    one = row(1000)
    assert one.seconds(132, BEST) == one.seconds(1, BEST)
    third = one.seconds(3 * 132, BEST) - one.seconds(2 * 132, BEST)
    assert third == pytest.approx(sum(one.instructions(BEST, 8).values(), Mix()).issued / 4 / BEST.issue / 1.755e9)
    for batch in (1, 132, 1024, 4096):
        assert one.seconds(batch, BEST) < one.seconds(batch, WORST)
        assert one.floor(batch) < one.seconds(batch, BEST)


# ---- how tensor cores add


def exactly(accumulator: Tensor, spikes: Tensor, weight: Tensor, extra: int) -> Fraction:
    """One instruction, for one row and receiver, in fractions."""

    def exponent(value: Fraction) -> int:
        """e where |value| is in [2^e, 2^(e + 1))."""
        found = value.numerator.bit_length() - value.denominator.bit_length() if value else -200
        return found - (abs(value) < Fraction(2) ** found) if value else found

    def cut(value: Fraction, last: int) -> Fraction:
        unit = Fraction(2) ** last
        return (abs(value) // unit) * unit * (1 if value > 0 else -1)

    terms = [Fraction(a.item()) * Fraction(b.item()) for a, b in zip(spikes, weight, strict=True)]
    terms.append(Fraction(accumulator.item()))
    total = sum(cut(term, max(map(exponent, terms)) - 23 - extra) for term in terms)
    return cut(total, exponent(total) - 23)


def random_operands(rows: int, senders: int, receivers: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Spikes of 0 and ±2^-j, and weights in three parts of 8 bits, in float64."""
    from snnkern.kernels.backends.triton.engine import split

    generator = torch.Generator().manual_seed(seed)
    spikes = torch.randint(-1, 2, (rows, senders), generator=generator).double()
    spikes = spikes / 2.0 ** torch.randint(0, 4, spikes.shape, generator=generator)
    return spikes, split(torch.randn(senders, receivers, generator=generator)).double()


@pytest.mark.parametrize("extra", [1, 2])
def test_an_instruction_cuts_off_what_its_largest_number_leaves_no_bit_for(extra) -> None:
    spikes, parts = random_operands(3, 16, 5)
    accumulator = (torch.randn(3, 5, generator=torch.Generator().manual_seed(1)) * 8).double()
    for part in parts:
        found = accumulation.multiply_block(accumulator, spikes, part, extra)
        for place in torch.cartesian_prod(torch.arange(3), torch.arange(5)):
            b, n = place.tolist()
            wanted = exactly(accumulator[b, n], spikes[b], part[:, n], extra)
            assert Fraction(found[b, n].item()) == wanted
        accumulator = found
    assert torch.equal(accumulator, accumulator.float().double())


def test_sums_in_parts_are_nearer_and_less_toward_zero() -> None:
    """Than those of one accumulator; and no further away than those that float32 rounds."""
    spikes, parts = random_operands(20, 256, 16)
    parts = parts.abs() * parts.sum(dim=0).sign()  # each weight's parts of one sign, as most of them are
    exact, sizes = spikes @ parts.sum(dim=0), spikes.abs() @ parts.sum(dim=0).abs()
    ways = (plain, lambda *given: on_tensor_cores(*given, 1), lambda *given: in_parts(*given, 1))
    rounded, together, apart = (Error.of(way(spikes, parts), exact, sizes) for way in ways)
    assert abs(rounded.bias) < 0.1 * abs(together.bias)
    assert together.bias < 3 * apart.bias < 0
    assert together.toward_zero > 0.7
    assert apart.largest < together.largest


@pytest.mark.parametrize("way", [lambda *given: on_tensor_cores(*given, 1), lambda *given: in_parts(*given, 2), plain])
def test_sums_that_float32_holds_are_exact(way) -> None:
    """In every order: every sender's products come once."""
    spikes, parts = random_operands(4, 128, 3, seed=3)
    whole = (parts[:1] * 4).round()
    parts = torch.cat([whole, torch.zeros_like(whole).expand(2, -1, -1)])
    assert torch.equal(way(spikes, parts), spikes @ whole[0])
