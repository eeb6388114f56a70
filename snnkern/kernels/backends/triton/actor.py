"""A whole actor in one Triton kernel, for large batches.

A program takes a tile of rows through one decision: layer by layer, and within a layer a tile of neurons at a time,
whose state stays in registers for all T steps.

A layer's spikes go to the next layer packed: 1 bit per neuron and step for IF and LIF, 2 for SNM,
1 + ⌈log2(L + 1)⌉ for MT and DC. A byte holds the steps of one neuron that fit, a plane one byte per neuron, and a
32-bit word of a plane the bytes of four neighbouring neurons: bit operations turn a tile of words into four tiles of
spikes.
The planes lie in scratch memory that each program uses again for every tile of rows, and that stays in the L2 cache.

Currents come from tensor cores. With the sender's θ folded into the weights a spike is 0, ±1 or ±2^-j, which bfloat16
holds exactly; a float32 weight is the sum of three bfloat16 parts. So three products with float32 accumulators give
float32 currents, if an accumulator adds up a quarter of the senders only (`add_products`). What is not exact in
bfloat16 (the observation, the mean of the last layer) is split in three as well, and of the nine products the six that
float32 can see are taken.

Weights come from L2 through shared memory, once for STEPS simulation steps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from snnkern.kernels.backends.triton.neurons import DC, is_binary, mean_output, neuron_step, residual_carry, transmitted

# The widest block of inputs that is decoded at a time.
BLOCK = tl.constexpr(256)


@triton.jit
def encode(units, LEVELS: tl.constexpr, EXPONENT_BITS: tl.constexpr):
    """A spike of size 2^-j as the number L − j, and its sign above it; 0 for no spike."""
    bits = units.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) & 0xFF
    size = tl.where(exponent > 0, exponent - (127 - LEVELS), 0)
    return size | (((bits >> 31) & 1) << EXPONENT_BITS)


@triton.jit
def moved(word, places: tl.constexpr):
    """The bits of an unsigned word, moved upwards, or downwards where `places` is negative."""
    if places < 0:
        word = word >> -places
    else:
        word = word << places
    return word


@triton.jit
def decode(words, PLACE: tl.constexpr, KIND: tl.constexpr, EXPONENT_BITS: tl.constexpr):
    """Spikes from the bits of words that begin at PLACE, with as few instructions as can be: they take their places
    in a float32, with the other bits 0. So a number n > 0 means 2^(n − 127), and 2 where it has one bit only, which
    goes to the top of the exponent, beside the sign.
    """
    if EXPONENT_BITS == 1:
        bits = moved(words, 30 - PLACE) & (0x40000000 if is_binary(KIND) else 0xC0000000)
    else:
        sign = moved(words, 31 - EXPONENT_BITS - PLACE) & 0x80000000
        bits = (moved(words, 23 - PLACE) & (((1 << EXPONENT_BITS) - 1) << 23)) | sign
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def split(value, dtype: tl.constexpr):
    """A float32 value as the sum of three bfloat16 ones, in the dtype of the weights."""
    high = value.to(tl.bfloat16)
    rest = value - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high.to(dtype), middle.to(dtype), low.to(dtype)


@triton.jit
def load_weights(weight, k, n, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, PART: tl.constexpr):
    """Rows k and columns n of one part of the weights `[parts, INPUTS, OUTPUTS]`."""
    return tl.load(weight + PART * INPUTS * OUTPUTS + (k[:, None] * OUTPUTS + n[None, :]))


@triton.jit
def multiply(value, weight, k, n, sums, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """sums + value · weight in float32, for any finite value; the weights are in three parts. The smallest go first."""
    high, middle, low = split(value, weight.dtype.element_ty)
    weight_high = load_weights(weight, k, n, INPUTS, OUTPUTS, 0)
    weight_middle = load_weights(weight, k, n, INPUTS, OUTPUTS, 1)
    weight_low = load_weights(weight, k, n, INPUTS, OUTPUTS, 2)
    sums = tl.dot(low, weight_high, sums)
    sums = tl.dot(middle, weight_middle, sums)
    sums = tl.dot(high, weight_low, sums)
    sums = tl.dot(middle, weight_high, sums)
    sums = tl.dot(high, weight_middle, sums)
    return tl.dot(high, weight_high, sums)


@triton.jit
def observe(
    observation,
    observation_mean,
    observation_std,
    observation_clip,
    rows,
    is_row,
    columns,
    WIDTH: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Some columns of the observations, normalised; 0 beyond the last."""
    is_column = columns < WIDTH
    value = tl.load(observation + (rows[:, None] * WIDTH + columns[None, :]), is_row[:, None] & is_column[None, :], 0.0)
    if NORMALIZE:
        mean = tl.load(observation_mean + columns, is_column, other=0.0)
        std = tl.load(observation_std + columns, is_column, other=1.0)
        value = tl.div_rn(value - mean[None, :], tl.broadcast_to(std[None, :], value.shape))
        value = tl.where(value > observation_clip, observation_clip, value)
        value = tl.where(value < -observation_clip, -observation_clip, value)
    return value


@triton.jit
def add_products(
    sums,
    words,
    weight,
    begin,
    n,
    quarters,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    KIND: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    IN_PARTS: tl.constexpr,
):
    """To each step's sums, the products of its spikes with weights: the spikes of a tile of words [ROWS, DEPTH], whose
    lowest bits are those of the first step and of the neuron `begin`.

    Tensor cores cut off, toward zero, where float32 would round. IN_PARTS, they add up a quarter of the senders from 0,
    and a float32 addition brings that to the sums: the errors are of a part's size, and fewer.
    """
    for quarter in tl.range(0, quarters, num_stages=STAGES):
        k = begin + 4 * tl.arange(0, DEPTH) + quarter
        added = sums
        for part in tl.static_range(PARTS):
            parts = load_weights(weight, k, n, INPUTS, NEURONS, PARTS - 1 - part)
            after = ()
            for step in tl.static_range(STEPS):
                spikes = decode(words, step * BITS, KIND, EXPONENT_BITS).to(parts.dtype)
                if IN_PARTS and part == 0:
                    after = after + (tl.dot(spikes, parts, input_precision="tf32"),)
                else:
                    after = after + (tl.dot(spikes, parts, added[step], input_precision="tf32"),)
            added = after
        if IN_PARTS:
            after = ()
            for step in tl.static_range(STEPS):
                after = after + (sums[step] + added[step],)
            added = after
        sums = added
        words = words >> 8  # the next neuron's byte
    return sums


@triton.jit
def receive(
    received,
    weight,
    n,
    bit,
    quarters,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    KIND: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
    IN_PARTS: tl.constexpr,
):
    """Spikes · weights of the STEPS steps that begin at `bit` of every byte of the words at `received`, as a tuple."""
    DEPTH: tl.constexpr = min(INPUTS, BLOCK) // 4
    sums = ()
    for _ in tl.static_range(STEPS):
        sums = sums + (tl.zeros((ROWS, WIDTH), tl.float32),)
    for begin in range(0, INPUTS, BLOCK):
        words = tl.load(received + begin // 4).to(tl.uint32, bitcast=True) >> bit
        sums = add_products(
            sums,
            words,
            weight,
            begin,
            n,
            quarters,
            INPUTS,
            NEURONS,
            KIND,
            EXPONENT_BITS,
            BITS,
            PARTS,
            STEPS,
            DEPTH,
            STAGES,
            IN_PARTS,
        )
    return sums


@triton.jit
def hyperbolic_tangent(z):
    """tanh, within 2^-22 of it absolutely."""
    shrunk = tl.exp(-2.0 * tl.abs(z))
    size = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(z < 0.0, -size, size)


@triton.jit
def first_currents(
    observation,
    observation_mean,
    observation_std,
    observation_clip,
    weight,
    rows,
    is_row,
    n,
    current,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """The currents of the first layer, which are constant, added to `current`."""
    DEPTH: tl.constexpr = min(INPUTS, 32)
    for begin in range(0, INPUTS, DEPTH):
        k = begin + tl.arange(0, DEPTH)
        value = observe(
            observation, observation_mean, observation_std, observation_clip, rows, is_row, k, WIDTH, NORMALIZE
        )
        current = multiply(value, weight, k, n, current, INPUTS, NEURONS)
    return current


@triton.jit
def step_and_pack(
    current,
    potential,
    count,
    current_mean,
    output_mean,
    packing,
    threshold,
    t,
    place,
    parameters,
    LAST: tl.constexpr,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
):
    """A step of a tile of neurons, t from 0: its state, and its bytes with these spikes at a `place`.

    Above the byte, `packing` has how many spikes a neuron sent, where `count` is not that.
    """
    time = tl.full((1, 1), t + 1, tl.int32).to(tl.float32)
    _, _, units, potential, count, current_mean, output_mean = neuron_step(
        current,
        potential,
        count,
        current_mean,
        output_mean,
        threshold,
        parameters,
        LEVELS,
        time,
        time,
        time,
        KIND,
        LEVELS,
        True,
        False,
    )
    if not is_binary(KIND):
        packing += (units != 0.0).to(tl.int32) << 8
    if not LAST:
        packing |= encode(units, LEVELS, EXPONENT_BITS) << (place * BITS)
    return potential, count, current_mean, output_mean, packing


@triton.jit
def run_tile(
    current,
    threshold,
    bias,
    start,
    weight,
    words,
    sent,
    n,
    timesteps,
    quarters,
    parameters,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """All T steps of a tile of rows and neurons n, from the potential `start`.

    The first layer's `current` is constant. The others' currents come from the planes of `words` [ROWS, INPUTS / 4];
    the bytes for the next layer go to `sent` [ROWS, NEURONS]. Returns the potential, the count, e, and how many spikes
    each row sent.
    """
    PER_BYTE: tl.constexpr = 8 // BITS
    in_tile = tl.arange(0, ROWS)[:, None]
    word = tl.arange(0, min(INPUTS, BLOCK) // 4)[None, :]
    potential = start
    count = tl.zeros((ROWS, WIDTH), tl.int32)
    events = tl.zeros((ROWS,), tl.int32)
    output_mean = tl.zeros((ROWS, WIDTH), tl.float32)
    current_mean = output_mean + bias if KIND == DC else output_mean
    for plane in range(0, tl.cdiv(timesteps, PER_BYTE)):
        received = words + plane * (ROWS * (INPUTS // 4)) + (in_tile * (INPUTS // 4) + word)
        packing = tl.zeros((ROWS, WIDTH), tl.int32)
        for chunk in range(0, tl.minimum(timesteps - plane * PER_BYTE, PER_BYTE), STEPS):
            if not FIRST:
                sums = receive(
                    received,
                    weight,
                    n,
                    chunk * BITS,
                    quarters,
                    INPUTS,
                    NEURONS,
                    KIND,
                    EXPONENT_BITS,
                    BITS,
                    PARTS,
                    STEPS,
                    ROWS,
                    WIDTH,
                    STAGES,
                    PARTS == 3,
                )
            for step in tl.static_range(STEPS):
                t = plane * PER_BYTE + chunk + step
                if not FIRST:
                    current = sums[step] * UNIT
                    if KIND != DC:
                        current += bias
                if t < timesteps:
                    potential, count, current_mean, output_mean, packing = step_and_pack(
                        current,
                        potential,
                        count,
                        current_mean,
                        output_mean,
                        packing,
                        threshold,
                        t,
                        chunk + step,
                        parameters,
                        LAST,
                        KIND,
                        LEVELS,
                        EXPONENT_BITS,
                        BITS,
                    )
                    if FIRST and KIND == DC:
                        current = tl.zeros_like(current)  # a constant is coded as x_1, 0, 0, …
        if not LAST:
            tl.store(sent + plane * (ROWS * NEURONS) + (in_tile * NEURONS + n[None, :]), packing.to(tl.int8))
        if not is_binary(KIND):
            events += tl.sum(packing >> 8, axis=1)
    if is_binary(KIND):
        events = tl.sum(count, axis=1)
    return potential, count, output_mean, events


@triton.jit(do_not_specialize=["timesteps", "tiles", "quarters"])
def actor_kernel(
    observation,  # [B, WIDTHS[0]]
    observation_mean,  # [WIDTHS[0]], read where NORMALIZE, as the next
    observation_std,
    weights,  # a tuple, the output layer last, as the next: [parts, PADDED[l], PADDED[l + 1]], padded with 0
    biases,  # [PADDED[l + 1]]
    thresholds,  # a tuple over hidden layers, as the next: [PADDED[l + 1]], padded with 0, which never fires
    carries,  # [B, WIDTHS[l + 1]], read and replaced
    row_alpha,  # [B], read where ROW_ALPHA in place of alpha
    counts,  # int64 [hidden layers, B]
    action,  # [B, WIDTHS[-1]]
    action_scale,  # [WIDTHS[-1]]
    action_bias,
    scratch,  # int8 [programs, 2, planes, ROWS, widest]
    scratch_words,  # the same memory as int32
    batch,
    tiles,
    timesteps,
    quarters,  # 4: unknown to the compiler, which would spread the loop over them, and registers with it
    observation_clip,
    parameters,  # `Parameters` of environment.py
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDEST: tl.constexpr,
    HIDDEN: tl.constexpr,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    ROW_ALPHA: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SQUASH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One decision of the actor for every tile of rows that falls to this program."""
    PADDED_ACTION: tl.constexpr = PADDED[
        HIDDEN + 1
    ]  # by name: some releases' `static_range` takes no element of a tuple
    last_time = tl.full((1, 1), timesteps, tl.int32).to(tl.float32)
    buffer = tl.cdiv(timesteps, 8 // BITS).to(tl.int64) * (ROWS * WIDEST)
    own = tl.program_id(0) * (2 * buffer)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), disable_licm=True):
        # The tile's place is a 64-bit number, but a place in the tile is not: it would take twice the registers.
        before_tile = tl.full((), tile, tl.int64) * ROWS
        row = tl.arange(0, ROWS)
        is_row = row < batch - tile * ROWS
        own_action = action + before_tile * WIDTHS[HIDDEN + 1] + row[:, None] * WIDTHS[HIDDEN + 1]
        for layer in tl.static_range(HIDDEN):
            events = tl.zeros((ROWS,), tl.int32)
            for first in tl.range(0, PADDED[layer + 1], min(COLUMNS, PADDED[layer + 1]), disable_licm=True):
                n = first + tl.arange(0, min(COLUMNS, PADDED[layer + 1]))
                inside = is_row[:, None] & (n < WIDTHS[layer + 1])[None, :]
                place = (
                    carries[layer] + before_tile * WIDTHS[layer + 1] + (row[:, None] * WIDTHS[layer + 1] + n[None, :])
                )
                # Rows of one: a tensor of the tile's shape would take a register for every row.
                threshold = tl.load(thresholds[layer] + n)[None, :]
                bias = tl.load(biases[layer] + n)[None, :]
                current = tl.zeros(inside.shape, tl.float32)
                if layer == 0:
                    current = first_currents(
                        observation + before_tile * WIDTHS[0],
                        observation_mean,
                        observation_std,
                        observation_clip,
                        weights[0],
                        row,
                        is_row,
                        n,
                        current,
                        WIDTHS[0],
                        PADDED[0],
                        PADDED[1],
                        NORMALIZE,
                    )
                    if KIND != DC:
                        current += bias
                potential, count, output_mean, sent = run_tile(
                    current,
                    threshold,
                    bias,
                    parameters.initial_fraction * threshold + tl.load(place, inside, 0.0),
                    weights[layer],
                    scratch_words + (own + (layer % 2) * buffer) // 4,
                    scratch + (own + ((layer + 1) % 2) * buffer),
                    n,
                    timesteps,
                    quarters,
                    parameters,
                    layer == 0,
                    layer == HIDDEN - 1,
                    PADDED[layer],
                    PADDED[layer + 1],
                    KIND,
                    LEVELS,
                    EXPONENT_BITS,
                    BITS,
                    UNIT,
                    PARTS,
                    STEPS,
                    ROWS,
                    min(COLUMNS, PADDED[layer + 1]),
                    STAGES,
                )
                events += sent
                # Read again: in between they have no registers to wait in.
                before = tl.load(place, inside, 0.0, volatile=True)
                threshold = tl.load(thresholds[layer] + n, volatile=True)[None, :]
                gained = potential - (parameters.initial_fraction * threshold + before)
                total = transmitted(count, output_mean, threshold, last_time, KIND, LEVELS)
                share = parameters.alpha
                if ROW_ALPHA:
                    share = tl.load(row_alpha + before_tile + row, is_row, other=0.0)[:, None]
                after = residual_carry(gained, total, before, threshold, share, parameters)
                tl.store(place, after, inside)
                if layer == HIDDEN - 1:
                    mean = mean_output(count, output_mean, threshold, last_time, KIND, LEVELS)
                    # z waits in memory for the next tile of neurons.
                    for begin in tl.static_range(0, PADDED_ACTION, 16):
                        output = begin + tl.arange(0, 16)
                        is_action = is_row[:, None] & (output < WIDTHS[HIDDEN + 1])[None, :]
                        z = tl.load(own_action + output[None, :], is_action & (first > 0), 0.0)
                        z = multiply(mean, weights[HIDDEN], n, output, z, PADDED[HIDDEN], PADDED_ACTION)
                        tl.store(own_action + output[None, :], z, is_action)
                    tl.debug_barrier()
            tl.store(counts + (layer * tl.cast(batch, tl.int64) + before_tile) + row, events.to(tl.int64), is_row)
            tl.debug_barrier()  # all of this layer's words are written, and all of the last one's are read
        for begin in tl.static_range(0, PADDED_ACTION, 16):
            output = begin + tl.arange(0, 16)
            is_output = output < WIDTHS[HIDDEN + 1]
            is_action = is_row[:, None] & is_output[None, :]
            z = tl.load(own_action + output[None, :], is_action, 0.0) + tl.load(biases[HIDDEN] + output)[None, :]
            if SQUASH:
                z = hyperbolic_tangent(z)
            scale = tl.load(action_scale + output, is_output, other=0.0)
            shift = tl.load(action_bias + output, is_output, other=0.0)
            tl.store(own_action + output[None, :], scale[None, :] * z + shift[None, :], is_action)
