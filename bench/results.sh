#!/usr/bin/env bash
# The study: the sweeps of bench/grids, an analysis, costs and latency, and the report of them all.
#
#   bench/results.sh [OUTPUT]
#
# `make results` runs it. Published actors are looked for in the folder ACTORS; without them only the zoo is swept.
# Finished tasks are kept in OUTPUT/store: interrupted, or killed, the same command resumes. Results are
# written to bench/results, the report to OUTPUT, and the figures that the docs show to docs/results.
set -euo pipefail
cd "$(dirname "$0")/.."
snnkern=${SNNKERN:-snnkern}
actors=${ACTORS:-../shared/actors/published}
output=${1:-results}

published=
grids=(zoo)
analysed=td3-halfcheetah environment=HalfCheetah-v5
if [ -e "$actors/TD3_HalfCheetah-v4_actor" ]; then
  published=yes
  grids=(published paper recommended others alpha calibration zoo)
  analysed=$actors/TD3_HalfCheetah-v4_actor environment=HalfCheetah-v4
else
  echo "No published actors in $actors: only the zoo is swept. Say where they are: make results ACTORS=FOLDER"
fi
mkdir -p "$output" docs/results
for grid in "${grids[@]}"; do
  echo "$grid:"
  "$snnkern" sweep "bench/grids/$grid.toml" --folder "$actors" --store "$output/store" --dry-run
done
for grid in "${grids[@]}"; do
  "$snnkern" sweep "bench/grids/$grid.toml" --folder "$actors" --store "$output/store" -o "bench/results/$grid.jsonl"
done
if [ "$published" ]; then
  "$snnkern" sweep bench/grids/recommended.toml --folder "$actors" --store "$output/store" \
    --neuron if -T 16,32 --calibration auto -o bench/results/recommended-more.jsonl  # for docs/paper.md
  for steps in 10000 30000; do
    for seed in 0 1000 2000; do
      "$snnkern" sweep bench/grids/observations.toml --folder "$actors" --store "$output/store" \
        --steps $steps --seed $seed -o "$output/observations-$steps-$seed.jsonl"
    done
  done
  cat "$output"/observations-*.jsonl > bench/results/observations.jsonl
fi
papers=(--alpha 0.2 --calibration max --steps 10000)  # as the papers do
"$snnkern" analyze "$analysed" --env "$environment" --neuron if --timesteps 8 "${papers[@]}" -o "$output/analysis"
"$snnkern" energy "$analysed" --env "$environment" --timesteps 2,4,8,16,32 --episodes 10 "${papers[@]}" \
  -o "$output/energy.json"
"$snnkern" bench td3-halfcheetah -o "$output/bench.json"
collections=("${grids[@]/#/bench/results/}")
"$snnkern" report "${collections[@]/%/.jsonl}" --analysis "$output/analysis/analysis.json" \
  --energy "$output/energy.json" --bench "$output/bench.json" -o "$output"
if [ "$published" ]; then
  cp "$output"/figures/{recommended-timesteps,published-timesteps,published-alpha,published-spikes}.png docs/results/
fi
cp "$output"/figures/zoo-{timesteps,spikes}.png docs/results/
