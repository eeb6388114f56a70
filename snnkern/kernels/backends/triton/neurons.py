"""The neurons in Triton: their step, the residual carry, and the kernel of one layer.

`csrc/neuron.h` says the same for native code. The order of the floating-point operations is the contract of
`docs/semantics.md`, so these kernels are compiled without contraction into fused multiply-adds. They divide by
steps with a reciprocal that all share (`csrc/cuda/divisor.h` says why it is exact), or with `div_rn`: `/` in Triton is
an approximation. A neuron's state is four tensors, of which each kind uses what it needs:

    count         IF, LIF, SNM: n; MT: m, what was sent in units of the smallest level
    current_mean  DC: e^x
    output_mean   DC: e
"""

from __future__ import annotations

import triton
import triton.language as tl

from snnkern.kernels.backends.triton import environment

INTERPRETED = tl.constexpr(environment.INTERPRETED)

# The values of `snnkern.kernels.neurons.Kind`; kernels can read only globals that are `constexpr`.
IF = tl.constexpr(0)
SNM = tl.constexpr(1)
MT = tl.constexpr(2)
DC = tl.constexpr(3)
LIF = tl.constexpr(4)

TALLY = tl.constexpr(1 << 16)

# The parts of a float32.
SIGN = tl.constexpr(-0x80000000)
EXPONENTS = tl.constexpr(-0x800000)
ONE = tl.constexpr(0x3F800000)

# What a number must be, where it is not 0, for `divide_fast`.
LEAST = tl.constexpr(2.0**-84)
SMALL = tl.constexpr(2 * ((127 - 84) << 23) - 1)  # its `place`
MOST_STEPS = tl.constexpr((1 << 15) - 1)  # what `run_steps` does on the fast path


@triton.constexpr_function
def is_binary(kind):
    """Whether a spike is θ or nothing."""
    return kind in (IF.value, LIF.value)


@triton.jit
def bits(value):
    """A float32 as its bit pattern."""
    return value.to(tl.int32, bitcast=True)


@triton.jit
def number(pattern):
    """A bit pattern as a float32."""
    return pattern.to(tl.float32, bitcast=True)


@triton.jit
def negated(value):
    """−value, and −0.0 of 0: before Triton 3.7 `-value` is 0 − value, which is 0.0."""
    return value * -1.0


@triton.jit
def fused(a, b, c):
    """a·b + c, rounded once.

    The interpreter's own rounds twice. In float64 a·b is exact, and the sum is rounded a second time only where it lies
    as close to the middle of two float32 numbers as no quotient does.
    """
    if INTERPRETED:
        result = (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(tl.float32)
    else:
        result = tl.fma(a, b, c)
    return result


@triton.jit
def about_one_over(value):
    """1 / value, off by a unit in the last place, for a value that is far from where `/` is careful."""
    if INTERPRETED:
        about = 1.0 / value
    else:  # the hardware's
        about = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [value], tl.float32, True, 1)
    return about


@triton.jit
def reciprocal(time):
    """1 / time as the sum of two numbers, for `divide_fast`: `Divisor` of `csrc/cuda/divisor.h`."""
    about = about_one_over(time)
    high = about * 0.999999523162841796875  # 1 - 2^-21
    missing = fused(-time, high, tl.full(time.shape, 1.0, tl.float32))
    return high, missing * about


@triton.jit
def divide_fast(value, high, low):
    """value / time to the last bit, for a time up to 2^16 and a value that is 0 or not below `LEAST`."""
    return fused(value, high, value * low)


@triton.jit
def place(value):
    """Where a number stands in the order of sizes, as unsigned integers; 0 stands last."""
    return bits(value).to(tl.uint32, bitcast=True) * 2 - 1


@triton.jit
def fire_single(potential, threshold, count, negative_fraction, KIND: tl.constexpr, UNIT: tl.constexpr):
    """IF, LIF and SNM: where it fires, s_t, s_t / θ (0 where θ = 0), and the new count.

    SNM may count in units of `TALLY`; then what is below a unit counts its spikes of both signs.
    """
    alive = threshold > 0.0
    up = (potential > threshold) & alive
    if is_binary(KIND):
        fires = up
        spike = tl.where(up, threshold, 0.0)
        units = tl.where(up, 1.0, 0.0)
        count += up.to(tl.int32)
    else:
        down = (negative_fraction * threshold > potential) & alive & (count >= UNIT)
        fires = up | down
        spike = tl.where(up, threshold, tl.where(down, -threshold, 0.0))
        units = tl.where(up, 1.0, tl.where(down, -1.0, 0.0))
        EVENT: tl.constexpr = 0 if UNIT == 1 else 1
        count += tl.where(up, UNIT + EVENT, tl.where(down, EVENT - UNIT, 0))
    return fires, spike, units, count


@triton.jit
def fire_level_regular(potential, threshold, count, promised, KIND: tl.constexpr, LEVELS: tl.constexpr):
    """MT and DC: where it fires, 2^-j and the sign as `times_level` takes them, for thresholds that are 0 or not tiny.

    The bounds 0.75·λ_j are one number times 2^-j, so the largest that a potential reaches follows from the difference
    of two bit patterns, rounded down to whole exponents. DC may take back what its mean promises to have sent (Q), MT
    what it has counted.
    """
    down = potential < 0.0
    if KIND == DC:
        all = tl.where(down, tl.where(promised > 0.0, promised, 0.0), threshold)
        largest = tl.minimum(bits(all) - bits(threshold), 0)
    else:
        all = tl.where(down, tl.minimum(count, 1 << (LEVELS - 1)), 1 << (LEVELS - 1))
        largest = bits(all.to(tl.float32)) - (ONE + ((LEVELS - 1) << 23))  # exact: at most 2^23
    magnitude = tl.abs(potential)
    level = tl.minimum(bits(magnitude) - bits(0.75 * threshold), largest) & EXPONENTS
    lowest = tl.where(threshold > 0.0, 0.75 * threshold * (1.0 / (1 << (LEVELS - 1))), float("nan"))
    fires = (level >= -((LEVELS - 1) << 23)) & (magnitude >= lowest)
    return fires, level, bits(potential) & SIGN


@triton.jit
def times_level(fires, level, sign, pattern):
    """± a number, given as its bits, times 2^-j: the number with another exponent. 0 where nothing fires."""
    return tl.where(fires, number((level + pattern) | sign), 0.0)


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
    """Whether `fire_level_regular` serves all of these thresholds, and `divide_fast` 24 levels of each."""
    regular = (threshold == 0.0) | ((threshold >= LEAST * (1 << 24)) & (threshold <= 3.4028234663852886e38))
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
    parameters,
    levels,
    time,
    high,
    low,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    REGULAR: tl.constexpr,
    FAST: tl.constexpr,
):
    """One simulation step, the `time`-th: where it fires, s_t, s_t / θ, and the state after it.

    `levels` is LEVELS at run time. REGULAR says that `fire_level_regular` serves the thresholds; FAST, that
    `divide_fast` with `high` and `low` serves everything.
    """
    potential = integrate(current, potential, current_mean, output_mean, parameters, KIND)
    return fire_and_reset(
        current,
        potential,
        count,
        current_mean,
        output_mean,
        threshold,
        parameters,
        levels,
        time,
        high,
        low,
        KIND,
        LEVELS,
        REGULAR,
        FAST,
    )


@triton.jit
def integrate(current, potential, current_mean, output_mean, parameters, KIND: tl.constexpr):
    """u after the current of a step."""
    if KIND == DC:
        potential = potential + current + current_mean - output_mean
    elif KIND == LIF:
        potential = parameters.decay * potential + current
    else:
        potential = potential + current
    return potential


@triton.jit
def fire_and_reset(
    current,
    potential,
    count,
    current_mean,
    output_mean,
    threshold,
    parameters,
    levels,
    time,
    high,
    low,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    REGULAR: tl.constexpr,
    FAST: tl.constexpr,
):
    """`neuron_step` from the potential that it has integrated."""
    if KIND == MT or KIND == DC:
        promised = time * output_mean
        if REGULAR:
            fires, level, sign = fire_level_regular(potential, threshold, count, promised, KIND, LEVELS)
            units = times_level(fires, level, sign, ONE)
            if KIND == MT:
                spike = threshold * units
            else:
                spike = times_level(fires, level, sign, bits(threshold))
        else:
            units = fire_level(potential, threshold, count, promised, levels, KIND)
            fires = units != 0.0
            spike = tl.where(fires, threshold * units, 0.0)
        if KIND == MT:
            count += (units * (1 << (LEVELS - 1))).to(tl.int32)  # both factors are powers of two: exact
    else:
        fires, spike, units, count = fire_single(
            potential, threshold, count, parameters.negative_fraction, KIND, TALLY if FAST else 1
        )
    if KIND == DC:
        if FAST:
            current_mean = current_mean + divide_fast(current, high, low)
            output_mean = output_mean + divide_fast(spike, high, low)
        else:
            current_mean = current_mean + tl.div_rn(current, time)
            output_mean = output_mean + tl.div_rn(spike, time)
    return fires, spike, units, potential - spike, count, current_mean, output_mean


@triton.jit
def residual_carry(gained, sent, carry, threshold, alpha, parameters):
    """CRPI: r = max(u_T − u_0, −Q_T), then c ← clamp(μ·c + α·r, −κ·θ, κ·θ). A NaN stays visible in the carry."""
    residual = tl.where(-sent > gained, negated(sent), gained)
    bound = parameters.clip * threshold
    carry = parameters.memory * carry + alpha * residual
    carry = tl.where(carry > bound, bound, carry)
    return tl.where(-bound > carry, negated(bound), carry)


@triton.jit
def load_row(values, columns, is_column, like):
    """A value for every column as a tile. Each call reads again: there are no registers to keep it in."""
    row = tl.load(values + columns, is_column, other=0.0, volatile=True).to(tl.float32)
    return tl.broadcast_to(row[None, :], like.shape)


@triton.jit
def load_start(carry, here, inside, threshold, initial_fraction):
    """c and u_0 of a tile; likewise."""
    before = tl.load(carry + here, inside, other=0.0, volatile=True).to(tl.float32)
    return before, initial_fraction * threshold + before


@triton.jit
def run_steps(
    source,
    target,
    threshold,
    bias,
    carry,
    here,
    inside,
    columns,
    is_column,
    timesteps,
    stride_t,
    step_elements,
    parameters,
    levels,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    CONSTANT: tl.constexpr,
    SPIKES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FAST: tl.constexpr,
):
    """All T steps of a tile: its state after them, how often pairs fired, and the place of the smallest current.

    FAST is for `MOST_STEPS`, thresholds that are regular, and currents that turn out not to be small.
    """
    level = load_row(threshold, columns, is_column, here)
    _, potential = load_start(carry, here, inside, level, parameters.initial_fraction)
    count = tl.zeros(here.shape, tl.int32)
    output_mean = tl.zeros(here.shape, tl.float32)
    current_mean = output_mean
    if HAS_BIAS:
        current_mean = load_row(bias, columns, is_column, here)
    PAIRS: tl.constexpr = (here.shape[0], here.shape[1] // 2, 2)  # in the registers of one thread
    events = tl.zeros(PAIRS[:2], tl.int32)
    smallest = tl.full(PAIRS[:2], 0xFFFFFFFF, tl.uint32)
    arriving = tl.load(source, inside, other=0.0)
    for step in range(timesteps):
        step = tl.full((1, 1), step + 1, tl.int32)
        time = step.to(tl.float32)
        high, low = reciprocal(time)
        current = arriving.to(tl.float32)
        if CONSTANT:
            if KIND == DC:
                arriving = tl.zeros_like(arriving)  # a constant is coded as x_1, 0, 0, …
        else:
            # The next step's current is asked for before this step's is used, so that a read is always under way.
            source += stride_t
            arriving = tl.load(source, inside & (step < timesteps), other=0.0)
        if FAST and KIND == DC and source.dtype.element_ty != tl.float16:  # which is never small
            smallest = tl.minimum(smallest, tl.min(tl.reshape(place(current), PAIRS), axis=2))
        fires, spike, _, potential, count, current_mean, output_mean = neuron_step(
            current,
            potential,
            count,
            current_mean,
            output_mean,
            level,
            parameters,
            levels,
            time,
            high,
            low,
            KIND,
            LEVELS,
            FAST,
            FAST,
        )
        if not is_binary(KIND) and not (KIND == SNM and FAST):
            events += tl.sum(tl.reshape(fires.to(tl.int32), PAIRS), axis=2)
        if SPIKES:
            tl.store(target, spike.to(target.dtype.element_ty), inside)
            target += step_elements
    if is_binary(KIND):
        events = tl.sum(tl.reshape(count, PAIRS), axis=2)
    if KIND == SNM and FAST:
        events = tl.sum(tl.reshape(count & (TALLY - 1), PAIRS), axis=2)
        count = count >> 16
    return potential, count, output_mean, events, smallest


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
    parameters,  # `Parameters` of environment.py
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
    step_elements = tl.cast(batch, tl.int64) * neurons
    source = current + (rows[:, None] * stride_b + columns.to(tl.int64)[None, :] * stride_n)
    target = output + here

    # Assigned for the compiler, which asks that they are there on every path.
    potential = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    output_mean = potential
    sent_events = tl.zeros((ROWS, COLUMNS // 2), tl.int32)
    wanted = True
    if not is_binary(KIND):
        wanted = timesteps <= MOST_STEPS
    if KIND == MT or KIND == DC:
        wanted = wanted & is_regular(load_row(threshold, columns, is_column, here))
    done = False
    for path in tl.static_range(2):  # the fast one; then, where that is not wanted or not exact, the careful one
        if wanted:
            potential, count, output_mean, sent_events, smallest = run_steps(
                source,
                target,
                threshold,
                bias,
                carry,
                here,
                inside,
                columns,
                is_column,
                timesteps,
                stride_t,
                step_elements,
                parameters,
                levels,
                KIND,
                LEVELS,
                CONSTANT,
                SPIKES,
                HAS_BIAS,
                path == 0,
            )
            done = True
            if KIND == DC:
                done = tl.min(tl.min(smallest, axis=1), axis=0) >= SMALL
        wanted = not done

    level = load_row(threshold, columns, is_column, here)
    before, start = load_start(carry, here, inside, level, parameters.initial_fraction)
    time = tl.cast(timesteps, tl.float32)
    if not SPIKES:
        mean = mean_output(count, output_mean, level, time, KIND, LEVELS)
        tl.store(target, mean.to(output.dtype.element_ty), inside)
    gained = potential - start
    sent = transmitted(count, output_mean, level, time, KIND, LEVELS)
    alpha = parameters.alpha
    if ROW_ALPHA:
        alpha = tl.load(row_alpha + rows, is_row, other=0.0).to(tl.float32)[:, None]
    after = residual_carry(gained, sent, before, level, alpha, parameters)
    tl.store(next_carry + here, after.to(next_carry.dtype.element_ty), inside)
    events = tl.sum(sent_events.to(tl.int64), axis=1)
    if WHOLE_ROWS:
        tl.store(counts + rows, events, is_row)
    else:
        tl.atomic_add(counts + rows, events, is_row, sem="relaxed")
