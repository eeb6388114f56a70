"""A layer of a visual actor in one Triton kernel: a convolution over all T steps, and the neurons on its sums.

A program takes a tile of output positions of one row of the batch, and a block of output channels. Their state stays in
registers for all T steps, and so do the sums of STEPS steps: words of packed spikes and weights are read once for all
of these. Spikes are packed as in `actor.py`, which has what this file shares with it. A plane has a byte per neuron and
lies as [B, y, x, channel], so that what a receptive field takes of one line of the image is one run of words. The zeros
of the receiver's padding lie around the image, in memory: they are written once, and nothing asks where an image ends.

Currents are an implicit product of matrices: positions by (ky, kx, channel), by output channels. The first layer's
current is constant. It is computed once per decision, from the pixels, which are normalised here.

`project_kernel` computes the currents of a Linear layer behind the last convolution, whose inputs are many and whose
neurons are few: each program sums a part of the inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from snnkern.kernels.backends.triton.actor import add_products, multiply, receive, step_and_pack
from snnkern.kernels.backends.triton.neurons import DC, is_binary, mean_output, residual_carry, transmitted


@triton.jit
def constant_currents(
    observation,
    weight,
    scale,
    offset,
    y,
    x,
    n,
    current,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """The constant currents of the first layer, added to `current`: from pixels [CHANNELS, HEIGHT, WIDTH] of any dtype,
    for fields that begin at y, x; beyond the image all is 0."""
    DEPTH: tl.constexpr = 32
    for begin in range(0, INPUTS, DEPTH):
        k = begin + tl.arange(0, DEPTH)
        channel = k // (KERNEL_Y * KERNEL_X)
        line = y[:, None] + (k // KERNEL_X % KERNEL_Y)[None, :]
        column = x[:, None] + (k % KERNEL_X)[None, :]
        inside = (channel < CHANNELS)[None, :] & (line >= 0) & (line < HEIGHT) & (column >= 0) & (column < WIDTH)
        place = channel[None, :] * (HEIGHT * WIDTH) + line * WIDTH + column
        pixel = tl.load(observation + place, inside, other=0).to(tl.float32)
        value = tl.div_rn(pixel, tl.zeros_like(pixel) + scale) + offset
        current = multiply(tl.where(inside, value, 0.0), weight, k, n, current, INPUTS, OUTPUTS)
    return current


@triton.jit
def receive_fields(
    received,
    weight,
    n,
    bit,
    quarters,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    FIELD: tl.constexpr,
    RUN: tl.constexpr,
    LINE: tl.constexpr,
    KIND: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Spikes · weights of the STEPS steps that begin at `bit` of every byte, as a tuple; a field's words begin at
    `received` [ROWS]. Of its FIELD words, RUN lie side by side in each line of LINE words."""
    sums = ()
    for _ in tl.static_range(STEPS):
        sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    for begin in range(0, INPUTS // 4, DEPTH):
        # What is behind the last word is multiplied with 0.
        word = tl.minimum(begin + tl.arange(0, DEPTH), FIELD - 1)
        place = word // RUN * LINE + word % RUN
        words = tl.load(received[:, None] + place[None, :]).to(tl.uint32, bitcast=True) >> bit
        sums = add_products(
            sums,
            words,
            weight,
            4 * begin,
            n,
            quarters,
            INPUTS,
            OUTPUTS,
            KIND,
            EXPONENT_BITS,
            BITS,
            PARTS,
            STEPS,
            DEPTH,
            STAGES,
            False,  # in parts, it would take more registers than there are
        )
    return sums


@triton.jit(do_not_specialize=["batch", "timesteps", "quarters"])
def convolution_kernel(
    observation,  # [B, *INPUT], read where FIRST
    words,  # int32: packed spikes [planes, B, *IMAGE / 4] of the layer before, read where not FIRST
    weight,  # [parts, INPUTS, PADDED], padded with 0; for words in the order (ky, kx, channel), for pixels (channel, …)
    bias,  # [PADDED], padded with 0
    thresholds,  # [PADDED], padded with 0, which never fires
    carry,  # [B, CHANNELS, positions], read and replaced
    row_alpha,  # [B], read where ROW_ALPHA in place of alpha
    counts,  # int64 [B], added to
    sent,  # int8: [planes, B, *NEXT], written where not MEAN
    means,  # [B, CHANNELS, positions], written where MEAN
    batch,
    timesteps,
    quarters,  # 4: as in `actor_kernel`
    scale,
    offset,
    parameters,  # `Parameters` of environment.py
    INPUT: tl.constexpr,  # channels, height, width of what comes in, without padding
    IMAGE: tl.constexpr,  # height, width, channels of its planes, with padding
    NEXT: tl.constexpr,  # the same of what goes out, with the receiver's padding
    NEXT_PADDING: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    OUTPUT: tl.constexpr,  # height and width of what goes out
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    INPUTS: tl.constexpr,
    FIRST: tl.constexpr,
    MEAN: tl.constexpr,
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    ROW_ALPHA: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """All T steps and the carry of a tile of positions and a block of channels, of one row of the batch."""
    PER_BYTE: tl.constexpr = 8 // BITS
    POSITIONS: tl.constexpr = OUTPUT[0] * OUTPUT[1]
    TILES: tl.constexpr = (POSITIONS + ROWS - 1) // ROWS
    BLOCKS: tl.constexpr = PADDED // COLUMNS
    RUN: tl.constexpr = KERNEL[1] * IMAGE[2] // 4
    LINE: tl.constexpr = IMAGE[1] * IMAGE[2] // 4
    program = tl.program_id(0)
    n = program % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    position = program // BLOCKS % TILES * ROWS + tl.arange(0, ROWS)
    row = (program // (BLOCKS * TILES)).to(tl.int64)
    is_position = position < POSITIONS
    inside = is_position[:, None] & (n < CHANNELS)[None, :]
    position = tl.minimum(position, POSITIONS - 1)  # what is behind the last one is computed again, and written nowhere
    y = position // OUTPUT[1]
    x = position % OUTPUT[1]
    # The row's place is a 64-bit number, a place in the row is not.
    here = n[None, :] * POSITIONS + position[:, None]
    own_carry = carry + row * (CHANNELS * POSITIONS) + here
    threshold = tl.load(thresholds + n)[None, :]
    added = tl.load(bias + n)[None, :]
    potential = parameters.initial_fraction * threshold + tl.load(own_carry, inside, 0.0)
    current = tl.zeros((ROWS, COLUMNS), tl.float32)
    if FIRST:
        current = constant_currents(
            observation + row * (INPUT[0] * INPUT[1] * INPUT[2]),
            weight,
            scale,
            offset,
            y * STRIDE[0] - PADDING[0],
            x * STRIDE[1] - PADDING[1],
            n,
            current,
            INPUT[0],
            INPUT[1],
            INPUT[2],
            KERNEL[0],
            KERNEL[1],
            INPUTS,
            PADDED,
        )
        if KIND != DC:
            current += added
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    events = tl.zeros((ROWS,), tl.int32)
    output_mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    current_mean = output_mean + added if KIND == DC else output_mean
    received = words + row * (IMAGE[0] * LINE) + (y * (STRIDE[0] * LINE) + x * (STRIDE[1] * IMAGE[2] // 4))
    target = sent + row * (NEXT[0] * NEXT[1] * NEXT[2])
    target += ((y + NEXT_PADDING[0]) * NEXT[1] + (x + NEXT_PADDING[1]))[:, None] * NEXT[2] + n[None, :]
    for plane in range(0, tl.cdiv(timesteps, PER_BYTE)):
        packing = tl.zeros((ROWS, COLUMNS), tl.int32)
        for chunk in range(0, tl.minimum(timesteps - plane * PER_BYTE, PER_BYTE), STEPS):
            if not FIRST:
                sums = receive_fields(
                    received,
                    weight,
                    n,
                    chunk * BITS,
                    quarters,
                    INPUTS,
                    PADDED,
                    KERNEL[0] * RUN,
                    RUN,
                    LINE,
                    KIND,
                    EXPONENT_BITS,
                    BITS,
                    PARTS,
                    STEPS,
                    ROWS,
                    COLUMNS,
                    DEPTH,
                    STAGES,
                )
            for step in tl.static_range(STEPS):
                t = plane * PER_BYTE + chunk + step
                if not FIRST:
                    current = sums[step] * UNIT
                    if KIND != DC:
                        current += added
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
                        MEAN,
                        KIND,
                        LEVELS,
                        EXPONENT_BITS,
                        BITS,
                    )
                    if FIRST and KIND == DC:
                        current = tl.zeros_like(current)  # a constant is coded as x_1, 0, 0, …
        if not MEAN:
            tl.store(target, packing.to(tl.int8), is_position[:, None])
            target += batch.to(tl.int64) * (NEXT[0] * NEXT[1] * NEXT[2])
        received += batch.to(tl.int64) * (IMAGE[0] * LINE)
        if not is_binary(KIND):
            events += tl.sum(packing >> 8, axis=1)
    if is_binary(KIND):
        events = tl.sum(count, axis=1)
    # Read again: in between they have no registers to wait in.
    before = tl.load(own_carry, inside, 0.0, volatile=True)
    threshold = tl.load(thresholds + n, volatile=True)[None, :]
    gained = potential - (parameters.initial_fraction * threshold + before)
    last_time = tl.full((1, 1), timesteps, tl.int32).to(tl.float32)
    total = transmitted(count, output_mean, threshold, last_time, KIND, LEVELS)
    share = parameters.alpha
    if ROW_ALPHA:
        share = tl.load(row_alpha + row)
    after = residual_carry(gained, total, before, threshold, share, parameters)
    tl.store(own_carry, after, inside)
    if MEAN:
        mean = mean_output(count, output_mean, threshold, last_time, KIND, LEVELS)
        tl.store(means + row * (CHANNELS * POSITIONS) + here, mean, inside)
    total_events = tl.sum(tl.where(is_position, events, 0).to(tl.int64), axis=0)
    tl.atomic_add(counts + row, total_events, sem="relaxed")  # whole numbers: their order does not matter


@triton.jit(do_not_specialize=["batch", "timesteps", "quarters", "pieces"])
def project_kernel(
    words,  # int32 [planes, B, PITCH]: packed spikes, and as much behind them as a piece has
    weight,  # [all pieces, parts, PIECE, NEURONS], in units of the sender's θ, padded with 0
    bias,  # [NEURONS], padded with 0; part of the current, but for DC
    currents,  # [programs of a tile, T, B, NEURONS]
    batch,
    timesteps,
    quarters,
    pieces,  # of one program
    PITCH: tl.constexpr,
    PIECE: tl.constexpr,
    NEURONS: tl.constexpr,
    ALL_PIECES: tl.constexpr,
    KIND: tl.constexpr,
    EXPONENT_BITS: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Currents of a Linear layer from the packed spikes of an image, for a tile of rows, a block of neurons and some
    pieces of the inputs. What these programs find is to be added up."""
    PER_BYTE: tl.constexpr = 8 // BITS
    BLOCKS: tl.constexpr = NEURONS // COLUMNS
    n = tl.program_id(0) % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    row = (tl.program_id(0) // BLOCKS).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * pieces
    is_row = row < batch
    received = words + (tl.minimum(row, batch - 1) * PITCH)[:, None] + tl.arange(0, PIECE // 4)[None, :]
    added = tl.load(bias + n)[None, :]
    if KIND == DC or tl.program_id(1) > 0:
        added = tl.zeros_like(added)
    steps = batch.to(tl.int64) * NEURONS
    target = currents + tl.program_id(1) * (timesteps * steps) + (row * NEURONS)[:, None] + n[None, :]
    for plane in range(0, tl.cdiv(timesteps, PER_BYTE)):
        for chunk in range(0, tl.minimum(timesteps - plane * PER_BYTE, PER_BYTE), STEPS):
            sums = ()
            for _ in tl.static_range(STEPS):
                sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)
            for piece in range(first, tl.minimum(first + pieces, ALL_PIECES)):
                found = receive(
                    received + plane * (batch.to(tl.int64) * PITCH) + piece * (PIECE // 4),
                    weight + tl.full((), piece, tl.int64) * (PARTS * PIECE * NEURONS),
                    n,
                    chunk * BITS,
                    quarters,
                    PIECE,
                    NEURONS,
                    KIND,
                    EXPONENT_BITS,
                    BITS,
                    PARTS,
                    STEPS,
                    ROWS,
                    COLUMNS,
                    STAGES,
                    False,
                )
                after = ()
                for step in tl.static_range(STEPS):
                    after = after + (sums[step] + found[step],)
                sums = after
            for step in tl.static_range(STEPS):
                t = plane * PER_BYTE + chunk + step
                if t < timesteps:
                    tl.store(target + t * steps, sums[step] * UNIT + added, is_row[:, None])
