"""The gradients of a layer of neurons in Triton: `docs/semantics.md`, "Gradients".

A program runs the steps of a tile again, and then goes back over them. What the way back needs of a step, f' and
∂s/∂θ, waits in registers, so that a number is read or written once. There is room for `SEGMENT` steps. Of more steps,
the state before each segment is kept in memory, and segments are run again from there, the last one first.

Spikes and counts are those of the forward kernel, to the bit. Behind them nothing must be exact, so that a quotient is
a product with a reciprocal.
"""

from __future__ import annotations

import triton
import triton.language as tl

from snnkern.kernels.backends.triton.neurons import (
    DC,
    IF,
    INTERPRETED,
    LIF,
    MOST_STEPS,
    MT,
    SMALL,
    SNM,
    about_one_over,
    fire_and_reset,
    integrate,
    is_regular,
    load_row,
    load_start,
    neuron_step,
    place,
    reciprocal,
)

# The values of `snnkern.kernels.surrogates.Surrogate`.
TRIANGLE = tl.constexpr(0)
SIGMOID = tl.constexpr(1)

PI = tl.constexpr(3.141592653589793)


@triton.constexpr_function
def kept_numbers(kind):
    """How many numbers of a neuron's state are kept before a segment: u; the count where it says what may be taken
    back; DC's two means."""
    return {IF.value: 1, LIF.value: 1, SNM.value: 2, MT.value: 2, DC.value: 3}[kind]


@triton.constexpr_function
def two_to(exponent):
    return 2.0**exponent


@triton.constexpr_function
def over_height(j, levels):
    """1 / the height of the j-th step: the smallest level's is that level."""
    return 2.0 ** min(j + 1, levels - 1)


@triton.jit
def unforeseen(number):
    """A number of which the compiler does not know where it comes from. Else it keeps the address of every read and
    write of a loop, from one turn to the next, and has no registers for them."""
    if not INTERPRETED:
        number = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [number], tl.int32, True, 1)
    return number


@triton.jit
def times_plus(a, b, c):
    """a·b + c in one instruction: behind the spikes, how often it is rounded is no matter."""
    if INTERPRETED:
        result = a * b + c
    else:
        result = tl.fma(a, b, c)
    return result


@triton.jit
def surrogate_of(z, SURROGATE: tl.constexpr):
    """σ(z); 0 where z is NaN."""
    size = tl.abs(z)
    if SURROGATE == TRIANGLE:
        slope = 1.0 - size
    elif SURROGATE == SIGMOID:
        down = tl.exp(-4.0 * size)
        over_above = about_one_over(1.0 + down)
        slope = 4.0 * down * over_above * over_above
    else:
        scaled = PI * size
        slope = about_one_over(1.0 + scaled * scaled)
    return tl.maximum(slope, 0.0)


@triton.jit
def slope_of(
    ratio,
    threshold,
    count,
    promised,
    negative_fraction,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    SURROGATE: tl.constexpr,
    REGULAR: tl.constexpr,
):
    """f'(w) at a potential, before the neuron fires. REGULAR says that no level of a θ > 0 underflows."""
    if KIND == MT or KIND == DC:
        slope = tl.zeros_like(ratio)
        size = tl.abs(ratio)
        above = ratio > 0.0
        if KIND == DC:
            sent = promised
            sent_or_above = tl.where(above, float("inf"), promised)
        else:
            sent = count
            sent_or_above = tl.where(above, 1 << (LEVELS - 1), count)
        for j in tl.static_range(LEVELS):
            scale = two_to(-j)
            steepness = tl.full(ratio.shape, over_height(j, LEVELS), tl.float32)
            bound = tl.full(ratio.shape, -0.75 * two_to(-j) * over_height(j, LEVELS), tl.float32)
            level = threshold * scale
            if KIND == DC:
                taken_back = level
            else:
                taken_back = 1 << (LEVELS - 1 - j)
            if SURROGATE == TRIANGLE and j < LEVELS - 1:  # of this step only one side is not 0
                side = surrogate_of(times_plus(size, steepness, bound), SURROGATE)
                steps = tl.where(sent_or_above >= taken_back, side, 0.0)
            else:
                up = surrogate_of(times_plus(ratio, steepness, bound), SURROGATE)
                down = surrogate_of(times_plus(-ratio, steepness, bound), SURROGATE)
                steps = up + tl.where(sent >= taken_back, down, 0.0)
            if not REGULAR:
                steps = tl.where(level > 0.0, steps, 0.0)
            slope += steps
    else:
        slope = surrogate_of(ratio - 1.0, SURROGATE)
        if KIND == SNM:
            slope += tl.where(count >= 1, surrogate_of(negative_fraction - ratio, SURROGATE), 0.0)
    return slope


@triton.jit
def over_threshold(threshold, REGULAR: tl.constexpr):
    """1 / θ as two factors, since that of the smallest θ would be infinite; NaN where θ = 0, whose slopes are 0.

    REGULAR thresholds need the second one alone.
    """
    shift = tl.where(threshold < 2.0**-64, 2.0**64, 1.0)
    if REGULAR:
        shift = tl.full(threshold.shape, 1.0, tl.float32)
    return shift, tl.where(threshold > 0.0, 1.0 / (threshold * shift), float("nan"))


@triton.jit
def keep(states, inside, size, potential, count, current_mean, output_mean, KIND: tl.constexpr):
    """Writes the state before a segment."""
    tl.store(states, potential, inside)
    if KIND == SNM or KIND == MT:
        tl.store(states + size, count.to(tl.float32, bitcast=True), inside)
    if KIND == DC:
        tl.store(states + size, current_mean, inside)
        tl.store(states + 2 * size, output_mean, inside)


@triton.jit
def go_back(
    source,
    gradient,
    target,
    states,
    threshold,
    bias,
    carry,
    here,
    inside,
    columns,
    is_column,
    timesteps,
    stride_t,
    gradient_stride_t,
    size,
    parameters,
    levels,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    CONSTANT: tl.constexpr,
    OF_MEAN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SURROGATE: tl.constexpr,
    SEGMENT: tl.constexpr,
    WHOLE: tl.constexpr,
    FAST: tl.constexpr,
):
    """All T steps of a tile and the way back over them; the gradients of its current are written.

    WHOLE says that T is SEGMENT. FAST is for `MOST_STEPS`, thresholds that are regular, and currents that turn out not
    to be small, as in `run_steps`.

    Returns:
        ∂θ of every neuron of the tile, ∂c, ∂bias, and the place of the smallest current.
    """
    level = load_row(threshold, columns, is_column, here)
    REGULAR: tl.constexpr = FAST and (KIND == MT or KIND == DC)
    shift, over = over_threshold(level, REGULAR)
    _, potential = load_start(carry, here, inside, level, parameters.initial_fraction)
    count = tl.zeros(here.shape, tl.int32)
    output_mean = tl.zeros(here.shape, tl.float32)
    current_mean = output_mean
    if HAS_BIAS:
        current_mean = load_row(bias, columns, is_column, here)
    smallest = tl.full(here.shape, 0xFFFFFFFF, tl.uint32)
    CODED_ONCE: tl.constexpr = CONSTANT and KIND == DC  # as x_1, 0, 0, …
    STATE: tl.constexpr = kept_numbers(KIND)

    segments = 1
    if not WHOLE:
        segments = tl.cdiv(timesteps, SEGMENT)
        last = (segments - 1) * SEGMENT
        arriving = states
        forward = source
        for step in range(last):
            if step % SEGMENT == 0:
                keep(arriving, inside, size, potential, count, current_mean, output_mean, KIND)
                arriving += STATE * size
            time = tl.full((1, 1), step + 1, tl.int32).to(tl.float32)
            high, low = reciprocal(time)
            if CODED_ONCE:
                current = tl.load(forward, inside & (step == 0), other=0.0).to(tl.float32)
            else:
                current = tl.load(forward, inside, other=0.0).to(tl.float32)
            forward += stride_t
            _, _, _, potential, count, current_mean, output_mean = neuron_step(
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
                FAST and KIND == DC,
            )
        keep(arriving, inside, size, potential, count, current_mean, output_mean, KIND)
        tl.debug_barrier()  # whichever thread reads it

    of_potential = tl.zeros(here.shape, tl.float32)
    of_threshold = of_potential
    of_current_mean = of_potential
    of_output_mean = of_potential
    shared = of_potential
    total = of_potential
    of_current = of_potential
    if OF_MEAN:
        of_mean = tl.load(gradient, inside, other=0.0).to(tl.float32)
        if KIND == DC:
            of_output_mean = of_mean
        else:
            shared = of_mean * (1.0 / tl.cast(timesteps, tl.float32))

    for back in range(segments):
        first = 0
        if not WHOLE:
            segment = segments - 1 - back
            first = segment * SEGMENT
            before = states + segment * STATE * size
            potential = tl.load(before, inside, other=0.0)
            if KIND == SNM or KIND == MT:
                count = tl.load(before + size, inside, other=0.0).to(tl.int32, bitcast=True)
            if KIND == DC:
                current_mean = tl.load(before + size, inside, other=0.0)
                output_mean = tl.load(before + 2 * size, inside, other=0.0)
        reading = source + first * stride_t
        slopes = ()
        rises = ()
        for i in tl.static_range(SEGMENT):
            t = tl.full((1, 1), first + i + 1, tl.int32)
            time = t.to(tl.float32)
            high, low = reciprocal(time)
            is_read = inside
            if CODED_ONCE:
                is_read = is_read & (t == 1)
            if not WHOLE:
                is_read = is_read & (t <= timesteps)
            current = tl.load(reading, is_read, other=0.0).to(tl.float32)
            reading += stride_t
            if FAST and KIND == DC and source.dtype.element_ty != tl.float16:  # which is never small
                smallest = tl.minimum(smallest, place(current))
            potential = integrate(current, potential, current_mean, output_mean, parameters, KIND)
            if REGULAR:
                ratio = potential * over
            else:
                ratio = potential * shift * over
            slope = slope_of(
                ratio,
                level,
                count,
                time * output_mean,
                parameters.negative_fraction,
                KIND,
                LEVELS,
                SURROGATE,
                REGULAR,
            )
            _, _, units, potential, count, current_mean, output_mean = fire_and_reset(
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
                FAST and KIND == DC,
            )
            slopes = slopes + (slope,)
            rises = rises + (times_plus(tl.where(slope > 0.0, -ratio, 0.0), slope, units),)
        given = gradient + (first + SEGMENT - 1) * gradient_stride_t
        writing = target + (first + SEGMENT - 1) * size
        for i in tl.static_range(SEGMENT - 1, -1, -1):
            t = tl.full((1, 1), first + i + 1, tl.int32)
            over_time = tl.broadcast_to(about_one_over(t.to(tl.float32)), here.shape)
            is_step = inside
            if not WHOLE:
                is_step = is_step & (t <= timesteps)
            if not OF_MEAN:
                shared = tl.load(given, is_step, other=0.0).to(tl.float32)
                given -= gradient_stride_t
            of_spike = shared - of_potential
            if KIND == DC:
                of_spike = times_plus(of_output_mean, over_time, of_spike)
            if not WHOLE:
                of_spike = tl.where(is_step, of_spike, 0.0)  # behind the last step nothing flows
            of_threshold = times_plus(of_spike, rises[i], of_threshold)
            of_potential = times_plus(of_spike, slopes[i], of_potential)
            if KIND == DC:
                of_current = times_plus(of_current_mean, over_time, of_potential)
                of_current_mean += of_potential
                of_output_mean -= of_potential
            else:
                of_current = of_potential
            if CONSTANT:
                total += of_current
            else:
                tl.store(writing, of_current.to(target.dtype.element_ty), is_step)
                writing -= size
            if KIND == LIF:
                of_potential = parameters.decay * of_potential
    if CODED_ONCE:
        total = of_current
    if CONSTANT:
        tl.store(target, total.to(target.dtype.element_ty), inside)
    of_threshold += parameters.initial_fraction * of_potential
    return of_threshold, of_potential, of_current_mean, smallest


@triton.jit(do_not_specialize=["timesteps", "levels", "strip"])
def gradient_kernel(
    current,  # [T, B, N], or [B, N] where it is constant
    gradient,  # [T, B, N] of the spikes, or [B, N] of the mean output
    threshold,  # [N]
    bias,  # [N], read for DC where HAS_BIAS
    carry,  # [B, N]
    of_current,  # as the current; contiguous, as the others that are written
    of_carry,  # [B, N]
    sums,  # float32 [1, strips, N] of ∂θ; of DC [2, strips, N], of ∂bias too
    states,  # float32 [segments, state, B, N], read and written where not WHOLE
    batch,
    neurons,
    timesteps,
    strip,  # tiles of rows that a program works off, one after the other
    stride_t,  # of the current, in elements
    stride_b,
    stride_n,
    gradient_stride_t,
    gradient_stride_b,
    gradient_stride_n,
    parameters,  # `Parameters` of environment.py
    levels,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    CONSTANT: tl.constexpr,
    OF_MEAN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SURROGATE: tl.constexpr,
    SEGMENT: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradients of one layer: a program has a strip of rows of some columns, and adds up those of what rows share.

    Arithmetic is float32, whatever the storage is.
    """
    across = tl.cdiv(neurons, COLUMNS)
    row_of_sums = tl.program_id(0) // across
    columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < neurons
    # Offsets of rows and steps are 64-bit: a tensor may have more than 2^31 elements.
    size = tl.cast(batch, tl.int64) * neurons
    far_t = tl.cast(stride_t, tl.int64)
    gradient_far_t = tl.cast(gradient_stride_t, tl.int64)

    of_thresholds = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_biases = of_thresholds
    is_fast = timesteps <= MOST_STEPS
    if KIND == MT or KIND == DC:
        is_fast = is_fast & is_regular(load_row(threshold, columns, is_column, of_thresholds))
    for tile in range(strip):
        rows = (row_of_sums.to(tl.int64) * strip + unforeseen(tile)) * ROWS + tl.arange(0, ROWS)
        inside = (rows < batch)[:, None] & is_column[None, :]
        here = rows[:, None] * neurons + columns[None, :]
        source = current + (rows[:, None] * stride_b + columns.to(tl.int64)[None, :] * stride_n)
        given = gradient + (rows[:, None] * gradient_stride_b + columns.to(tl.int64)[None, :] * gradient_stride_n)
        # Assigned for the compiler, which asks that they are there on every path.
        of_threshold = tl.zeros((ROWS, COLUMNS), tl.float32)
        of_start = of_threshold
        of_bias = of_threshold
        wanted = True
        if KIND == MT or KIND == DC:
            wanted = is_fast
        done = False
        for path in tl.static_range(2):  # as in `neuron_kernel`
            if wanted:
                of_threshold, of_start, of_bias, smallest = go_back(
                    source,
                    given,
                    of_current + here,
                    states + here,
                    threshold,
                    bias,
                    carry,
                    here,
                    inside,
                    columns,
                    is_column,
                    timesteps,
                    far_t,
                    gradient_far_t,
                    size,
                    parameters,
                    levels,
                    KIND,
                    LEVELS,
                    CONSTANT,
                    OF_MEAN,
                    HAS_BIAS,
                    SURROGATE,
                    SEGMENT,
                    WHOLE,
                    path == 0,
                )
                done = True
                if KIND == DC:
                    done = tl.min(tl.min(smallest, axis=1), axis=0) >= SMALL
            wanted = not done
        tl.store(of_carry + here, of_start.to(of_carry.dtype.element_ty), inside)
        of_thresholds += of_threshold
        of_biases += of_bias
    to = sums + row_of_sums.to(tl.int64) * neurons + columns
    tl.store(to, tl.sum(of_thresholds, axis=0), is_column)
    if KIND == DC:
        strips = tl.num_programs(0) // across
        tl.store(to + strips.to(tl.int64) * neurons, tl.sum(of_biases, axis=0), is_column)
