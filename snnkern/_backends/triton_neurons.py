"""The neurons in Triton: their step, the residual carry, and the kernel of one layer.

`csrc/neuron.h` says the same for native code. The order of the floating-point operations is the contract of
`docs/semantics.md`, so these kernels are compiled without contraction into fused multiply-adds and divide with
`div_rn`: `/` in Triton is an approximation. A neuron's state is four tensors, of which each kind uses what it needs:

    count         IF, SNM: n; MT: m, what was sent in units of the smallest level
    current_mean  DC: e^x
    output_mean   DC: e
"""

from __future__ import annotations

import triton
import triton.language as tl

# The values of `snnkern.neurons.Kind`; kernels can read only globals that are `constexpr`.
IF = tl.constexpr(0)
SNM = tl.constexpr(1)
MT = tl.constexpr(2)
DC = tl.constexpr(3)


@triton.jit
def fire_single(potential, threshold, count, negative_fraction, KIND: tl.constexpr):
    """IF and SNM: s_t, s_t / θ (0 where θ = 0), and the new count."""
    up = potential > threshold
    alive = threshold > 0.0
    if KIND == IF:
        spike = tl.where(up, threshold, 0.0)
        units = tl.where(up & alive, 1.0, 0.0)
        count += (up & alive).to(tl.int32)
    else:
        down = (negative_fraction * threshold > potential) & (count >= 1)
        spike = tl.where(up, threshold, tl.where(down, -threshold, 0.0))
        units = tl.where(up & alive, 1.0, tl.where(down & alive, -1.0, 0.0))
        count += tl.where(up & alive, 1, tl.where(down & alive, -1, 0))
    return spike, units, count


@triton.jit
def first_level(largest, value):
    """The smallest j ≥ 0 with largest / 2^j ≤ value, from the bits of both: far above any level where there is none.

    Holds for a largest ≥ 2^-100 that is finite, and a value that is 0 or positive, infinity included. Bits of positive
    floats are ordered as they are, and halving takes 1 from the exponent, which begins at bit 23.
    """
    behind = largest.to(tl.int32, bitcast=True) - value.to(tl.int32, bitcast=True)
    return tl.maximum((behind + 0x7FFFFF) >> 23, 0)


@triton.jit
def fire_level_regular(potential, threshold, count, promised, KIND: tl.constexpr, LEVELS: tl.constexpr):
    """MT and DC: s_t / θ for thresholds that are 0 or not tiny, whose levels are exact. Its cost is that of one level.

    DC may take back what its mean promises to have sent (Q), MT what it has counted.
    """
    j = first_level(0.75 * threshold, tl.abs(potential))
    if KIND == DC:
        allowed = first_level(threshold, tl.where(promised > 0.0, promised, 0.0))
    else:
        largest = tl.full(count.shape, 1 << (LEVELS - 1), tl.float32)
        allowed = first_level(largest, tl.minimum(count, 1 << (LEVELS - 1)).to(tl.float32))  # exact: at most 2^23
    down = potential < 0.0
    j = tl.where(down, tl.maximum(j, allowed), j)
    fires = (j < LEVELS) & (threshold > 0.0) & (potential == potential)
    size = ((127 - j) << 23).to(tl.float32, bitcast=True)  # 2^-j
    return tl.where(fires, tl.where(down, -size, size), 0.0)


@triton.jit
def fire_level(potential, threshold, count, promised, levels, KIND: tl.constexpr):
    """As `fire_level_regular`, level by level, for any threshold. A level of 0 (an underflow) never fires.

    Levels are visited from the smallest, so that a larger one overrules it.
    """
    units = tl.zeros_like(potential)
    for i in range(levels):
        scale = tl.cast((128 - levels + i) << 23, tl.int32).to(tl.float32, bitcast=True)  # 2^(i − L + 1)
        level = threshold * scale
        bound = 0.75 * level
        alive = level > 0.0
        up = alive & (potential >= bound)
        if KIND == DC:
            down = alive & (-bound >= potential) & (promised >= level)
        else:
            down = alive & (-bound >= potential) & (count >= (1 << i))
        units = tl.where(up, scale, tl.where(down, -scale, units))
    return units


@triton.jit
def is_regular(threshold):
    """Whether `fire_level_regular` serves all of these thresholds: the smallest of 24 levels must be normal."""
    regular = (threshold == 0.0) | ((threshold >= 7.888609052210118e-31) & (threshold <= 3.4028234663852886e38))
    return tl.min(tl.min(regular.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def transmitted(count, output_mean, threshold, time, KIND: tl.constexpr, LEVELS: tl.constexpr):
    """Q after `time` steps."""
    if KIND == DC:
        sent = time * output_mean
    elif KIND == MT:
        # As a multiple of θ first: the smallest level may underflow.
        sent = count.to(tl.float32) * (1.0 / (1 << (LEVELS - 1))) * threshold
    else:
        sent = count.to(tl.float32) * threshold
    return sent


@triton.jit
def mean_output(count, output_mean, threshold, time, KIND: tl.constexpr, LEVELS: tl.constexpr):
    """Q_T / T, or e_T for DC."""
    if KIND == DC:
        mean = output_mean
    else:
        mean = tl.div_rn(transmitted(count, output_mean, threshold, time, KIND, LEVELS), time)
    return mean


@triton.jit
def neuron_step(
    current,
    potential,
    count,
    current_mean,
    output_mean,
    threshold,
    negative_fraction,
    levels,
    regular,
    time,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """One simulation step, the `time`-th: s_t, s_t / θ, and the state after it.

    `levels` is LEVELS at run time, and `regular` whether `is_regular` holds.
    """
    if KIND == DC:
        potential = potential + current + current_mean - output_mean
    else:
        potential = potential + current
    if KIND == MT or KIND == DC:
        promised = time * output_mean
        if regular:
            units = fire_level_regular(potential, threshold, count, promised, KIND, LEVELS)
        else:
            units = fire_level(potential, threshold, count, promised, levels, KIND)
        spike = tl.where(units != 0.0, threshold * units, 0.0)
        if KIND == MT:
            count += (units * (1 << (LEVELS - 1))).to(tl.int32)  # both factors are powers of two: exact
    else:
        spike, units, count = fire_single(potential, threshold, count, negative_fraction, KIND)
    if KIND == DC:
        current_mean = current_mean + tl.div_rn(current, time)
        output_mean = output_mean + tl.div_rn(spike, time)
    return spike, units, potential - spike, count, current_mean, output_mean


@triton.jit
def residual_carry(gained, sent, carry, threshold, alpha, memory, clip):
    """CRPI: r = max(u_T − u_0, −Q_T), then c ← clamp(μ·c + α·r, −κ·θ, κ·θ). A NaN stays visible in the carry."""
    residual = tl.where(-sent > gained, -sent, gained)
    bound = clip * threshold
    carry = memory * carry + alpha * residual
    carry = tl.where(carry > bound, bound, carry)
    return tl.where(-bound > carry, -bound, carry)


@triton.jit(do_not_specialize=["timesteps", "levels"])
def neuron_kernel(
    current,  # [T, B, N], or [B, N] where it is constant
    threshold,  # [N]
    bias,  # [N], read for DC where HAS_BIAS
    carry,  # [B, N]
    output,  # [T, B, N] spikes where SPIKES, else [B, N] mean; contiguous, as next_carry
    next_carry,  # [B, N]
    row_alpha,  # [B], read where ROW_ALPHA in place of alpha
    counts,  # int64 [B]; zeros where a row is shared by several programs
    batch,
    neurons,
    timesteps,
    stride_t,  # of the current, in elements
    stride_b,
    stride_n,
    initial_fraction,
    negative_fraction,
    alpha,
    memory,
    clip,
    levels,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    CONSTANT: tl.constexpr,
    SPIKES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROW_ALPHA: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
):
    """All T steps and the carry of a tile [ROWS, COLUMNS] of one layer, with the state in registers.

    Arithmetic is float32, whatever the storage is.
    """
    across = tl.cdiv(neurons, COLUMNS)
    tile = tl.program_id(0)
    rows = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = rows < batch
    is_column = columns < neurons
    inside = is_row[:, None] & is_column[None, :]
    # Offsets of rows and steps are 64-bit: a tensor may have more than 2^31 elements.
    here = rows[:, None] * neurons + columns[None, :]
    step_elements = batch.to(tl.int64) * neurons
    source = current + (rows[:, None] * stride_b + columns.to(tl.int64)[None, :] * stride_n)
    place = output + here

    level = tl.load(threshold + columns, is_column, other=0.0).to(tl.float32)[None, :]
    level = tl.broadcast_to(level, (ROWS, COLUMNS))
    regular = is_regular(level)
    before = tl.load(carry + here, inside, other=0.0).to(tl.float32)
    potential = initial_fraction * level + before
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    sent_events = tl.zeros((ROWS, COLUMNS), tl.int32)
    output_mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    current_mean = output_mean
    if HAS_BIAS:
        offset = tl.load(bias + columns, is_column, other=0.0).to(tl.float32)[None, :]
        current_mean = tl.broadcast_to(offset, (ROWS, COLUMNS))

    arriving = tl.load(source, inside, other=0.0).to(tl.float32)
    for step in range(timesteps):
        step = tl.full((1, 1), step + 1, tl.int32)
        time = step.to(tl.float32)
        x = arriving
        if CONSTANT:
            if KIND == DC:
                arriving = tl.zeros_like(x)  # a constant is coded as x_1, 0, 0, …
        else:
            # The next step's current is asked for before this step's is used, so that a read is always under way.
            source += stride_t
            arriving = tl.load(source, inside & (step < timesteps), other=0.0).to(tl.float32)
        spike, units, potential, count, current_mean, output_mean = neuron_step(
            x,
            potential,
            count,
            current_mean,
            output_mean,
            level,
            negative_fraction,
            levels,
            regular,
            time,
            KIND,
            LEVELS,
        )
        if KIND != IF:
            sent_events += (units != 0.0).to(tl.int32)
        if SPIKES:
            tl.store(place, spike.to(output.dtype.element_ty), inside)
            place += step_elements

    time = tl.cast(timesteps, tl.float32)
    if not SPIKES:
        mean = mean_output(count, output_mean, level, time, KIND, LEVELS)
        tl.store(place, mean.to(output.dtype.element_ty), inside)
    gained = potential - (initial_fraction * level + before)
    sent = transmitted(count, output_mean, level, time, KIND, LEVELS)
    if ROW_ALPHA:
        alpha = tl.load(row_alpha + rows, is_row, other=0.0).to(tl.float32)[:, None]
    after = residual_carry(gained, sent, before, level, alpha, memory, clip)
    tl.store(next_carry + here, after.to(next_carry.dtype.element_ty), inside)
    events = tl.sum((count if KIND == IF else sent_events).to(tl.int64), axis=1)
    if WHOLE_ROWS:
        tl.store(counts + rows, events, is_row)
    else:
        tl.atomic_add(counts + rows, events, is_row, sem="relaxed")
