"""Mutants of the Triton kernels and of what launches them."""

from mutants.mutant import Mutant

NEURON_TESTS = "'python_tests/kernels/test_triton.py::test_kernels_in_the_interpreter[neurons]'"
GRADIENT_TESTS = "'python_tests/kernels/test_triton.py::test_kernels_in_the_interpreter[gradients]'"
ACTOR_TESTS = "'python_tests/kernels/test_triton.py::test_kernels_in_the_interpreter[actors]'"
VISUAL_TESTS = "'python_tests/kernels/test_triton.py::test_kernels_in_the_interpreter[visual]'"
LAYERED_TESTS = "python_tests/kernels/test_cuda_visual.py"
COMPILED_NEURONS = "python_tests/kernels/test_triton_compiled.py::test_default_neuron_kernels_fit_every_target"
COMPILED_ACTORS = "python_tests/kernels/test_triton_compiled.py::test_default_actor_kernels_fit_their_targets"
COMPILED_GRADIENTS = "python_tests/kernels/test_triton_compiled.py::test_gradient_kernels_fit_their_targets"
CALL_TESTS = "python_tests/kernels/test_triton_calls.py"
WARMUP_TESTS = "python_tests/kernels/test_triton.py::test_warmup_times_every_tile_on_the_actors_device"


def _neurons(name: str, text: str, replacement: str, tests: str = NEURON_TESTS) -> Mutant:
    return Mutant(f"triton-{name}", "snnkern/kernels/backends/triton/neurons.py", text, replacement, tests)


def _gradient(name: str, text: str, replacement: str, tests: str = GRADIENT_TESTS) -> Mutant:
    file = "snnkern/kernels/backends/triton/gradients.py"
    return Mutant(f"triton-gradient-{name}", file, text, replacement, tests)


def _actor(name: str, text: str, replacement: str, tests: str = ACTOR_TESTS) -> Mutant:
    return Mutant(f"triton-actor-{name}", "snnkern/kernels/backends/triton/actor.py", text, replacement, tests)


def _engine(name: str, text: str, replacement: str, tests: str = ACTOR_TESTS) -> Mutant:
    return Mutant(f"triton-engine-{name}", "snnkern/kernels/backends/triton/engine.py", text, replacement, tests)


def _visual(name: str, text: str, replacement: str, file: str = "triton/convolution.py") -> Mutant:
    return Mutant(f"triton-visual-{name}", f"snnkern/kernels/backends/{file}", text, replacement, VISUAL_TESTS)


def _repeated(name: str, text: str, replacement: str, file: str = "repeated") -> Mutant:
    return Mutant(f"triton-{file}-{name}", f"snnkern/kernels/backends/triton/{file}.py", text, replacement, CALL_TESTS)


MUTANTS = [
    _neurons("rows-of-32-bits", "(tile // across).to(tl.int64) * ROWS", "(tile // across) * ROWS"),
    _neurons("steps-of-32-bits", "tl.cast(batch, tl.int64) * neurons", "batch * neurons"),
    _neurons("columns-of-32-bits", "columns.to(tl.int64)[None, :] * stride_n", "columns[None, :] * stride_n"),
    _neurons("reads-the-step-behind-the-last", "inside & (step < timesteps)", "inside"),
    _neurons("reads-columns-behind-the-last", "is_column = columns < neurons", "is_column = columns < neurons + 1"),
    _neurons(
        "small-is-smaller",
        "SMALL = tl.constexpr(2 * ((127 - 84) << 23) - 1)",
        "SMALL = tl.constexpr(2 * ((127 - 100) << 23) - 1)",
    ),
    _neurons("least-is-smaller", "LEAST = tl.constexpr(2.0**-84)", "LEAST = tl.constexpr(2.0**-100)"),
    _neurons("smallest-current-is-small", ">= SMALL", "> SMALL"),
    _neurons("smallest-threshold-is-small", "(threshold >= LEAST * (1 << 24))", "(threshold > LEAST * (1 << 24))"),
    _neurons("zero-is-small", "tl.uint32, bitcast=True) * 2 - 1", "tl.uint32, bitcast=True) * 2"),
    _neurons(
        "more-steps-than-a-tally-counts",
        "MOST_STEPS = tl.constexpr((1 << 15) - 1)",
        "MOST_STEPS = tl.constexpr(1 << 15)",
    ),
    _neurons("fewer-steps-than-most", "wanted = timesteps <= MOST_STEPS", "wanted = timesteps < MOST_STEPS"),
    _neurons("more-steps-than-most", "wanted = timesteps <= MOST_STEPS", "wanted = timesteps <= MOST_STEPS + 1"),
    _neurons(
        "never-divides-again", "            done = tl.min(tl.min(smallest", "            exact = tl.min(tl.min(smallest"
    ),
    _neurons("spikes-are-not-unpacked", "count = count >> 16", "count = count >> 15"),
    _neurons("fires-at-the-threshold", "up = (potential > threshold) & alive", "up = (potential >= threshold) & alive"),
    _neurons("silent-neurons-fire", "up = (potential > threshold) & alive", "up = potential > threshold"),
    _neurons("takes-back-what-was-not-sent", "& alive & (count >= UNIT)", "& alive"),
    _neurons("spikes-down-are-not-counted", "0 if UNIT == 1 else 1", "0"),
    _neurons("level-above-its-bound", "(magnitude >= lowest)", "(magnitude > lowest)"),
    _neurons("slow-level-above-its-bound", "up = alive & (potential >= bound)", "up = alive & (potential > bound)"),
    _neurons(
        "slow-level-below-its-bound",
        "down = alive & (-bound >= potential) & (promised >= level)",
        "down = alive & (-bound > potential) & (promised >= level)",
    ),
    _neurons("lif-does-not-leak", "parameters.decay * potential + current", "potential + current"),
    _neurons("takes-back-more-than-promised", "tl.where(promised > 0.0, promised, 0.0)", "threshold"),
    _neurons("takes-back-more-than-counted", "tl.minimum(count, 1 << (LEVELS - 1))", "(1 << (LEVELS - 1))"),
    _neurons("reciprocal-is-not-below", "about * 0.999999523162841796875", "about * 1.0"),
    _neurons("divides-roughly", "return fused(value, high, value * low)", "return value * high"),
    _neurons(
        "slow-division-is-rough", "current_mean + tl.div_rn(current, time)", "current_mean + current * (1 / time)"
    ),
    _neurons(
        "underflowing-level-first",
        "count.to(tl.float32) * (1.0 / (1 << (LEVELS - 1))) * threshold",
        "count.to(tl.float32) * ((1.0 / (1 << (LEVELS - 1))) * threshold)",
    ),
    _neurons("negation-loses-the-sign-of-zero", "return value * -1.0", "return 0.0 - value"),
    _neurons("residual-is-not-bounded", "tl.where(-sent > gained, negated(sent), gained)", "gained"),
    _neurons("carry-is-not-clamped-below", "return tl.where(-bound > carry, negated(bound), carry)", "return carry"),
    _neurons(
        "carry-forgets", "carry = parameters.memory * carry + alpha * residual", "carry = carry + alpha * residual"
    ),
    _neurons("constant-current-is-repeated", "arriving = tl.zeros_like(arriving)", "arriving = arriving"),
    _neurons(
        "counts-are-overwritten",
        'tl.atomic_add(counts + rows, events, is_row, sem="relaxed")',
        "tl.store(counts + rows, events, is_row)",
    ),
    Mutant(
        "triton-fused-multiply-add",
        "snnkern/kernels/backends/triton/launch.py",
        "else None,\n                enable_fp_fusion=False",
        "else None,\n                enable_fp_fusion=True",
        COMPILED_NEURONS,
    ),
    Mutant(
        "triton-gradient-fused-multiply-add",
        "snnkern/kernels/backends/triton/launch.py",
        "surrogate, carry.device),\n                enable_fp_fusion=False",
        "surrogate, carry.device),\n                enable_fp_fusion=True",
        COMPILED_GRADIENTS,
    ),
    _gradient("rows-of-32-bits", "row_of_sums.to(tl.int64) * strip +", "row_of_sums * strip +"),
    _gradient("steps-of-32-bits", "size = tl.cast(batch, tl.int64) * neurons", "size = batch * neurons"),
    _gradient("strides-of-32-bits", "\n    far_t = tl.cast(stride_t, tl.int64)", "\n    far_t = stride_t"),
    _gradient("given-strides-of-32-bits", "tl.cast(gradient_stride_t, tl.int64)", "gradient_stride_t"),
    _gradient("columns-of-32-bits", "columns.to(tl.int64)[None, :] * stride_n", "columns[None, :] * stride_n"),
    _gradient("reads-columns-behind-the-last", "is_column = columns < neurons", "is_column = columns < neurons + 1"),
    _gradient("reads-steps-behind-the-last", "is_read = is_read & (t <= timesteps)", "is_read = is_read"),
    _gradient("writes-steps-behind-the-last", "is_step = is_step & (t <= timesteps)", "is_step = is_step"),
    _gradient("flows-behind-the-last-step", "of_spike = tl.where(is_step, of_spike, 0.0)", "of_spike = of_spike"),
    _gradient("reset-is-detached", "of_spike = shared - of_potential", "of_spike = shared"),
    _gradient("output-mean-is-detached", "of_output_mean -= of_potential", "of_output_mean -= 0.0"),
    _gradient("current-mean-is-detached", "of_current_mean += of_potential", "of_current_mean += 0.0"),
    _gradient("start-is-detached", "of_threshold += parameters.initial_fraction * of_potential", "of_threshold += 0.0"),
    _gradient("does-not-leak", "of_potential = parameters.decay * of_potential", "of_potential = of_potential"),
    _gradient("mean-is-a-sum", "of_mean * (1.0 / tl.cast(timesteps, tl.float32))", "of_mean"),
    _gradient("no-gradient-through-the-units", "0.0), slope, units)", "0.0), slope, 0.0 * units)"),
    _gradient("infinity-times-nothing", "tl.where(slope > 0.0, -ratio, 0.0)", "-ratio"),
    _gradient("silent-neurons-have-slopes", "threshold > 0.0, 1.0 /", "threshold >= 0.0, 0.5 /"),
    _gradient("small-thresholds-overflow", "threshold < 2.0**-64, 2.0**64, 1.0", "threshold < 0.0, 2.0**64, 1.0"),
    _gradient("takes-back-what-was-not-sent", "tl.where(sent_or_above >= taken_back, side, 0.0)", "side"),
    _gradient(
        "snm-takes-back-what-was-not-sent", "tl.where(count >= 1, surrogate_of", "tl.where(count >= 0, surrogate_of"
    ),
    _gradient("no-side-above", "where(sent_or_above >= taken_back", "where(sent >= taken_back"),
    _gradient("last-step-is-too-steep", "2.0 ** min(j + 1, levels - 1)", "2.0 ** (j + 1)"),
    _gradient("underflowing-levels-have-slopes", "tl.where(level > 0.0, steps, 0.0)", "steps"),
    _gradient("never-divides-again", "done = tl.min(tl.min(smallest", "exact = tl.min(tl.min(smallest"),
    _gradient(
        "smallest-of-the-last-step", "smallest = tl.minimum(smallest, place(current))", "smallest = place(current)"
    ),
    _gradient("every-row-is-the-last", "of_thresholds += of_threshold", "of_thresholds = of_threshold"),
    _gradient("every-bias-is-the-last", "of_biases += of_bias", "of_biases = of_bias"),
    _gradient("keeps-one-mean", "output_mean = tl.load(before + 2 * size", "output_mean = tl.load(before + size"),
    _gradient("forgets-the-count", "count = tl.load(before + size, inside", "count = tl.load(before, inside"),
    _gradient("constant-current-is-repeated", "is_read = is_read & (t == 1)", "is_read = is_read"),
    _gradient(
        "no-barrier-before-states-are-read", "tl.debug_barrier()  # whichever", "pass  # whichever", COMPILED_GRADIENTS
    ),
    _actor(
        "no-barrier-behind-actions",
        "tl.debug_barrier()\n            tl.store(counts",
        "pass\n            tl.store(counts",
        COMPILED_ACTORS,
    ),
    _actor("no-barrier-behind-layers", "tl.debug_barrier()  # all of", "pass  # all of", COMPILED_ACTORS),
    _actor("rows-of-32-bits", "tl.full((), tile, tl.int64) * ROWS", "tile * ROWS"),
    _actor("scratch-of-32-bits", "tl.cdiv(timesteps, 8 // BITS).to(tl.int64)", "tl.cdiv(timesteps, 8 // BITS)"),
    _actor(
        "reads-behind-the-observation",
        "is_row[:, None] & is_column[None, :], 0.0)\n    if NORMALIZE",
        "is_row[:, None], 0.0)\n    if NORMALIZE",
    ),
    _actor("no-sign", "size | (((bits >> 31) & 1) << EXPONENT_BITS)", "size"),
    _actor("one-accumulator", "PARTS == 3,", "False,", COMPILED_ACTORS),
    _actor("one-buffer", "((layer + 1) % 2) * buffer", "(layer % 2) * buffer"),
    _actor("weights-of-two-parts", "sums = tl.dot(high, weight_low, sums)", "sums = sums"),
    _actor("observations-of-two-parts", "sums = tl.dot(low, weight_high, sums)", "sums = sums"),
    _actor("no-middle-products", "sums = tl.dot(middle, weight_middle, sums)", "sums = sums"),
    _actor("adds-to-what-was-there", "is_action & (first > 0)", "is_action"),
    _actor("constant-current-is-repeated", "current = tl.zeros_like(current)", "current = current"),
    _actor("a-step-more", "if t < timesteps:", "if t <= timesteps:"),
    _actor("observation-is-not-clipped", "tl.where(value > observation_clip, observation_clip, value)", "value"),
    _actor("tanh-of-the-size", "return tl.where(z < 0.0, -size, size)", "return size"),
    _actor("counts-of-one-layer", "(layer * tl.cast(batch, tl.int64) + before_tile)", "before_tile"),
    _engine("fused-multiply-add", '"enable_fp_fusion": False', '"enable_fp_fusion": True', COMPILED_ACTORS),
    _engine("levels-may-underflow", "_SMALLEST_THRESHOLD = 2.0**-100", "_SMALLEST_THRESHOLD = 2.0**-126"),
    _engine("weights-may-overflow", "_LARGEST_WEIGHT = 2.0**27", "_LARGEST_WEIGHT = 2.0**60"),
    Mutant(
        name="triton-events-on-any-device",
        file="snnkern/kernels/backends/tuning.py",
        text="with torch.cuda.device(device):  # where events",
        replacement="if True:  # where events",
        tests="python_tests/kernels/test_tuning.py",
    ),
    _engine("keeps-the-slowest-tile", "best = min(times", "best = max(times", WARMUP_TESTS),
    _visual("pads-with-pixels", "tl.where(inside, value, 0.0)", "value"),
    _visual("rows-of-32-bits", "(program // (BLOCKS * TILES)).to(tl.int64)", "program // (BLOCKS * TILES)"),
    _visual("counts-what-is-no-position", "tl.where(is_position, events, 0)", "events"),
    _visual(
        "counts-of-one-program",
        'tl.atomic_add(counts + row, total_events, sem="relaxed")',
        "tl.store(counts + row, total_events)",
    ),
    _visual("writes-into-the-padding", "(x + NEXT_PADDING[1])", "x"),
    _visual("constant-current-is-repeated", "current = tl.zeros_like(current)", "current = current"),
    _visual("every-plane-is-the-first", "received += batch.to(tl.int64) * (IMAGE[0] * LINE)", "received += 0"),
    _visual("every-piece-has-the-bias", "if KIND == DC or tl.program_id(1) > 0:", "if KIND == DC:"),
    _visual(
        "folds-what-differs-by-position",
        "all(layer.threshold.dim() == 1 for layer in first)",
        "True",
        "triton/visual.py",
    ),
    Mutant(
        "layered-convolves-in-tf32",
        "snnkern/kernels/backends/layered.py",
        "allow_tf32=False",
        "allow_tf32=True",
        LAYERED_TESTS,
    ),
    _engine("tf32-is-cut-off", "bits + 0xFFF + ((bits >> 13) & 1)", "bits"),
    _repeated("on-any-boundary", "not any(tensor.data_ptr() % _BOUNDARY for tensor in given)", "True"),
    _repeated("goes-unwatched", "self._compiled is not None and not _hooked()", "self._compiled is not None"),
    _repeated("gives-the-first-tensors", "addresses[place] = tensor.data_ptr()", "pass"),
    _repeated("on-the-default-stream", "stream_on(given[0].get_device())", "0"),
    _repeated("forgets-constants", "self._addresses += [", "_ = ["),
    _repeated("forgets-the-source", ", kernel {kernel.cache_key}", "", "tuning"),
    _repeated("forgets-the-release", "Triton {triton.__version__}, ", "", "tuning"),
    Mutant(
        "tuning-takes-anothers-choice",
        "snnkern/policies/choices.py",
        "kept.choice if kept.of == of else None",
        "kept.choice",
        CALL_TESTS,
    ),
    _engine("measures-what-is-known", "unmeasured = known or (", "unmeasured = (", WARMUP_TESTS),
    _engine(
        "a-choice-for-each-batch", "bucket(self._batch), self._precision", "self._batch, self._precision", WARMUP_TESTS
    ),
]
