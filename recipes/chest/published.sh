#!/bin/sh
# Counterparts of chest films with the published settings, beside ours: the same classifier, films and steps. About a
# quarter of an hour of one core for ours, half an hour for each other one.
#
#   APERCU_DATA=… recipes/chest/published.sh [ours sagen syce cyce]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/chest; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="ours sagen syce cyce"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/chest
card=$out/classifier/card.json

[ -d $out/films ] || $bin/python recipes/chest/prepare.py "$data/data" $out/films
[ -f $card ] || $bin/python recipes/chest/classifier.py $out/films "$data/models" $out/classifier

for study in ${*:-$studies}; do
    run=$out/published-$study
    settings=recipes/published/$study.yaml
    [ "$study" = ours ] && settings=recipes/chest/counterpart.yaml
    [ -f "$run/weights.safetensors" ] ||
        $bin/apercu train counterpart --config "$settings" --classifier $card \
            --images $out/films/train --out "$run" --resume
    [ -f "$out/measured-published-$study/facts.json" ] ||
        $bin/python recipes/chest/measure.py $out/films $card "$run" "$out/measured-published-$study"
    $bin/apercu compare --classifier $card --images $out/films/boxes --explainer "$run" \
        --methods "gradient,gradient:augmented=8,cam,occlusion,centre_blob,random,counterpart:augmented=8" \
        --metrics ncc,iou_over_percentiles --no-cost --out "$out/compare-published-$study"
    cat "$out/compare-published-$study/table.md"
done
