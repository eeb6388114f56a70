"""The tables of docs/gpu.md: what compilers make of the CUDA and the Triton kernels, what an H100 should take for them,
what one-pass precisions cost, and what bench/gpu.py has measured.

    python bench/gpu_page.py             # compiles for every target, counts spikes, draws the tables; some minutes

Nothing here runs on a GPU. nvcc's flags and targets are those of CMakeLists.txt.
"""

from __future__ import annotations

import cluster_tables
import cuda_compiled
import cuda_tables
import gradient_tables
import precision
import triton_compiled
import triton_tables
import visual_tables
from h100 import PAGE, Measured, assumptions_table

from snnkern.files import write_atomically


def draw(marker: str, content: str) -> None:
    """Puts a table between its markers on the page."""
    text = PAGE.read_text()
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise RuntimeError(f"{PAGE} has no place for {marker}")
    write_atomically(PAGE, f"{before}{start}{content}\n{end}{after}".encode())


def main() -> None:
    if why := cuda_compiled.missing() or triton_compiled.missing():
        raise SystemExit(why)
    loads, kernels = cuda_tables.measure(), cuda_compiled.compile_all()
    draw("cuda-compiled", cuda_compiled.compiled_table(kernels))
    draw("cuda-instructions", cuda_tables.instructions_table(kernels))
    draw("cuda-loads", cuda_tables.loads_table(loads))
    rows = cuda_tables.rows_of(loads, kernels)
    draw("assumptions", assumptions_table())
    draw("cuda-parts", cuda_tables.parts_table(rows["IF"]))
    draw("cuda-predicted", cuda_tables.predicted_table(rows, kernels))
    of_clusters = cluster_tables.compile_kinds()
    draw("cluster-parts", cluster_tables.parts_table(loads["IF"], of_clusters))
    draw("cluster-predicted", cluster_tables.predicted_table(loads, of_clusters))
    draw("triton-precision", precision.precision_table())
    draw("triton-accumulation", precision.accumulation_table())
    of_triton = triton_compiled.compile_all([*triton_compiled.actors(), *triton_compiled.neurons()])
    draw("triton-compiled", triton_tables.compiled_table(of_triton))
    draw("triton-instructions", triton_tables.instructions_table(of_triton))
    draw("triton-parts", triton_tables.parts_table(of_triton))
    draw("triton-predicted", triton_tables.predicted_table(of_triton))
    of_gradients = triton_compiled.compile_all(triton_compiled.gradients())
    draw("gradients-compiled", gradient_tables.compiled_table(of_gradients))
    draw("gradients-predicted", gradient_tables.predicted_table(of_gradients))
    draw("cuda-gradients", gradient_tables.cuda_table(kernels))
    of_visual = triton_compiled.compile_all(triton_compiled.visual())
    draw("visual-compiled", visual_tables.compiled_table(of_visual))
    draw("visual-predicted", visual_tables.predicted_table(of_visual))
    draw("measured-decisions", Measured().decisions_table())
    draw("borders", triton_tables.borders_table(of_triton, rows))


if __name__ == "__main__":
    main()
